import { describe, expect, it } from 'vitest';
import { matchDisks } from '../../../src/core/match-disks.js';
import { bitmap, catalog, entry, point, source } from '../../support/builders.js';

const ids = (...args: Parameters<typeof matchDisks>): string[] => matchDisks(...args).map(({ id }) => id);

describe('a new disk is named by', () => {
  it.each([
    ['its device name', { device: 'ide0-hd0' }, 'ide0-hd0'],
    ['else an explicit node', { address: 'disk1' }, 'disk1'],
    ['else its guest device', { qdev: '/machine/peripheral/vd1/virtio-backend' }, 'vd1'],
    ['a guest device told by id', { qdev: 'scsi1' }, 'scsi1'],
    ['else its file', { qdev: '/machine/peripheral-anon/device[0]/virtio-backend' }, 'x.qcow2'],
    ['a file told as json', { qdev: null, file: 'json:{"driver":"raw","filename": "/dev/vg/lv"}' }, 'lv'],
    ['a name that is no plain file name', { device: '../../etc/passwd' }, '_.._.._etc_passwd'],
  ])('%s', (_, traits, id) => {
    const base = source(null, { address: '#block123', file: '/images/x.qcow2' });
    expect(ids(undefined, [{ ...base, ...traits }])).toEqual([id]);
  });

  it('two disks never share a folder', () => {
    const one = source(null, { file: '/one/disk.qcow2' });
    const two = source(null, { file: '/two/disk.qcow2' });
    const nodes = [
      { ...one, address: '#block1' },
      { ...two, address: '#block2' },
    ];
    expect(ids(undefined, nodes)).toEqual(['disk.qcow2', 'disk.qcow2-2']);
  });
});

it.each([
  ['differ only in what a folder cannot have', ['a/b', 'a_b', 'a b'], ['a_b', 'a_b-2', 'a_b-3']],
  ['are one to a file system without case', ['Data', 'data', 'DATA-2'], ['Data', 'data-2', 'DATA-2-2']],
  ['are those of other things in a target', ['definition', 'catalog.json'], ['definition-2', 'catalog.json-2']],
  ['are longer than a folder should be', ['x'.repeat(130), 'x'.repeat(140)], ['x'.repeat(120), `${'x'.repeat(120)}-2`]],
])('disks whose names %s get folders of their own', (_, devices, expected) => {
  expect(
    ids(
      undefined,
      devices.map((device) => source(device)),
    ),
  ).toEqual(expected);
});

describe('a known disk', () => {
  const a = entry('a', 'FULL-1.qcow2');
  const b = entry('b', 'FULL-1.qcow2');
  const known = catalog([point(0, [a, b])]);

  it('is known by the id that a person gave it, unless its bitmap says otherwise', () => {
    const named = (id: string, more: Parameters<typeof source>[1] = {}) =>
      source(id, { id, qdev: null, address: id, file: `/elsewhere/${id}`, ...more });
    expect(ids(known, [named('b'), named('c')])).toEqual(['b', 'c']);
    expect(ids(known, [named('b', { bitmaps: [bitmap(a.bitmap!.name)] })])).toEqual(['a']);
    expect(ids(undefined, [named('x')])).toEqual(['x']);
  });

  it('is known by its bitmap first: swapped images keep their folders', () => {
    const sources = [
      source('a', { bitmaps: [bitmap(b.bitmap!.name)] }),
      source('b', { bitmaps: [bitmap(a.bitmap!.name)] }),
    ];
    expect(ids(known, sources)).toEqual(['b', 'a']);
  });

  it('is known by its device when the bitmap is gone', () => {
    expect(ids(known, [source('b'), source('a')])).toEqual(['b', 'a']);
  });

  it('a new disk under the device name of one that moved gets a folder of its own', () => {
    const moved = source('z', { bitmaps: [bitmap(a.bitmap!.name)] });
    expect(ids(known, [moved, source('a')])).toEqual(['a', 'a-2']);
  });

  it('a clone carries the bitmap of its original: the device says which is which', () => {
    const bitmaps = [bitmap(a.bitmap!.name)];
    expect(ids(known, [source('c', { bitmaps }), source('a', { bitmaps })])).toEqual(['c', 'a']);
  });

  it('a clone with a chain of its own is known by its newest bitmap, in whatever order QEMU lists them', () => {
    const [full, own] = [entry('a', 'FULL-1.qcow2'), entry('c', 'FULL-2.qcow2')];
    const later = entry('a', 'INC-2.qcow2');
    const cloned = catalog([point(0, [full]), point(1, [later, own])]);
    const [first, newest, ofClone] = [full, later, own].map((each) => bitmap(each.bitmap!.name));
    const sources = [source('a', { bitmaps: [first!, ofClone!] }), source('c', { bitmaps: [first!, newest!] })];
    expect(ids(cloned, sources)).toEqual(['c', 'a']);
  });
});

describe('where all disks of a point have one bitmap name, as those of a libvirt domain', () => {
  const shared = { name: 'qmpbackup-00112233445566aa-0123456789ab', persistent: true };
  const known = catalog([
    point(0, [entry('vda', 'FULL-1.qcow2', { bitmap: shared }), entry('vdb', 'FULL-1.qcow2', { bitmap: shared })]),
  ]);
  const carrying = (target: string, file: string, backing: readonly string[] = []) =>
    source(target, { file, backing, bitmaps: [bitmap(shared.name)] });
  const seen = (...args: Parameters<typeof matchDisks>): (readonly [string, boolean])[] =>
    matchDisks(...args).map(({ id, source: { bitmaps } }) => [id, bitmaps.length > 0]);

  it('disks as they were are what they were', () => {
    const sources = [carrying('vda', '/images/vda.qcow2'), carrying('vdb', '/images/vdb.qcow2')];
    expect(seen(known, sources)).toEqual([
      ['vda', true],
      ['vdb', true],
    ]);
  });

  it('images that changed places keep their folders', () => {
    const sources = [carrying('vda', '/images/vdb.qcow2'), carrying('vdb', '/images/vda.qcow2')];
    expect(seen(known, sources)).toEqual([
      ['vdb', true],
      ['vda', true],
    ]);
  });

  it('a disk that took over the name of one that is gone is still the one it was', () => {
    expect(seen(known, [carrying('vda', '/images/vdb.qcow2')])).toEqual([['vdb', true]]);
  });

  describe('and the copy of one has failed, so that only the other was sealed with it', () => {
    const lacks = [{ disk: 'vdb', reason: 'its copy failed', kind: 'failed' as const }];
    const older = { name: 'qmpbackup-00112233445566aa-aaaaaaaaaaaa', persistent: true };
    const full = point(0, [
      entry('vda', 'FULL-1.qcow2', { bitmap: older }),
      entry('vdb', 'FULL-1.qcow2', { bitmap: older }),
    ]);
    const failed = point(1, [entry('vda', 'INC-2.qcow2', { level: 'inc', parent: 'FULL-1.qcow2', bitmap: shared })], {
      lacks,
    });
    const chain = catalog([full, failed]);

    it('that one is not taken for the other where it is alone', () => {
      expect(seen(chain, [carrying('vdb', '/images/vdb.qcow2')])).toEqual([['vdb', true]]);
    });

    it('nor where the images changed places', () => {
      const sources = [carrying('vda', '/images/vdb.qcow2'), carrying('vdb', '/images/vda.qcow2')];
      expect(ids(chain, sources)).toEqual(['vdb', 'vda']);
    });

    it('nor where it has no file yet', () => {
      const first = catalog([point(0, [entry('vda', 'FULL-1.qcow2', { bitmap: shared })], { lacks })]);
      expect(seen(first, [carrying('vdb', '/images/vdb.qcow2')])).toEqual([['vdb', false]]);
    });
  });

  it('another image under the name of a disk is that disk, but its bitmap proves nothing', () => {
    const sources = [carrying('vda', '/images/other.qcow2'), carrying('vdb', '/images/vdb.qcow2')];
    expect(seen(known, sources)).toEqual([
      ['vda', false],
      ['vdb', true],
    ]);
  });

  it('a snapshot above the image is proven by it, and so is what the snapshot was merged into', () => {
    const above = carrying('vda', '/images/vda.s1', ['/images/vda.qcow2']);
    expect(seen(known, [above])).toEqual([['vda', true]]);
    const later = catalog([
      ...known.points,
      point(1, [
        entry('vda', 'INC-2.qcow2', { bitmap: shared, source: { ...entry('vda', '').source, file: '/images/vda.s1' } }),
      ]),
    ]);
    expect(seen(later, [carrying('vda', '/images/vda.qcow2')])).toEqual([['vda', true]]);
  });
});
