import { describe, expect, it } from 'vitest';
import type { Catalog } from '../../../src/core/catalog.js';
import { neededBitmaps } from '../../../src/core/chain.js';
import type { PointDisk } from '../../../src/core/point.js';
import { type PlanRequest, planBackup, withoutFailed } from '../../../src/core/plan.js';
import type { QmpBackupError } from '../../../src/errors.js';
import { bitmap, catalog, entry, MiB, planInput, point, request, source, vmState } from '../../support/builders.js';

const full = entry('a', 'FULL-1.qcow2');
const inc = entry('a', 'INC-2.qcow2', { parent: 'FULL-1.qcow2' });
const chain = catalog([point(0, [full]), point(1, [inc])]);
const tracked = [bitmap(full.bitmap!.name), bitmap(inc.bitmap!.name, { count: MiB })];

function refusal(body: () => unknown): QmpBackupError {
  try {
    body();
  } catch (error) {
    return error as QmpBackupError;
  }
  throw new Error('it was not refused');
}

describe('the level of each disk', () => {
  it('is FULL and begins a chain in an empty target', () => {
    const plan = planBackup(planInput('auto', [source('a'), source('b')], undefined));
    expect(plan).toMatchObject({ level: 'full', chain: 'abcdefabcdef', number: 0 });
    expect(plan.disks.map(({ level, copyBitmap }) => [level, copyBitmap])).toEqual([
      ['full', null],
      ['full', null],
    ]);
  });

  it('is INC from the bitmap of the newest file, whose exact name is there', () => {
    const plan = planBackup(planInput('inc', [source('a', { bitmaps: tracked })], chain));
    expect(plan).toMatchObject({ level: 'inc', chain: 'c1', number: 2 });
    expect(plan.disks[0]).toMatchObject({ level: 'inc', copyBitmap: inc.bitmap!.name, parent: inc });
    expect(plan.disks[0]!.newBitmap!.name).toMatch(/-a-abcdefabcdef$/);
  });

  it('while the VM is off adds no bitmap, and the next point builds on the last file that has one', () => {
    const sources = [source('a', { bitmaps: tracked })];
    const off = planBackup(planInput('inc', sources, chain, { bitmapName: null }));
    expect(off.disks[0]).toMatchObject({ level: 'inc', parent: inc, copyBitmap: inc.bitmap!.name, newBitmap: null });
    expect(off.warnings).toEqual([]);
    const offline = point(2, [entry('a', 'INC-3.qcow2', { parent: inc.file, bitmap: null })]);
    const next = planBackup(planInput('inc', sources, catalog([...chain.points, offline])));
    expect(next.disks[0]).toMatchObject({ level: 'inc', parent: inc, copyBitmap: inc.bitmap!.name });
  });

  it('is FULL after a FULL of a VM that was off, of which both runs say why', () => {
    const sources = [source('a', { bitmaps: tracked })];
    const off = planBackup(planInput('full', sources, chain, { bitmapName: null }));
    expect(off.warnings).toEqual([expect.stringContaining('the next backup reads the whole disk, too')]);
    const offline = point(0, [entry('a', 'FULL-3.qcow2', { bitmap: null })], { chain: 'c2' });
    const next = planBackup(planInput('auto', sources, catalog([...chain.points, offline])));
    expect(next.disks[0]).toMatchObject({
      level: 'full',
      reason: expect.stringContaining('FULL-3.qcow2 was taken without a bitmap; ') as string,
    });
  });

  it('is FULL where the bitmap cannot be read for what it has recorded', () => {
    const layered = [bitmap(inc.bitmap!.name, { unreadable: 'it lies in several layers' })];
    const plan = planBackup(planInput('auto', [source('a', { bitmaps: layered })], chain, { bitmapName: null }));
    expect(plan.disks[0]).toMatchObject({ level: 'full', reason: expect.stringContaining('several layers') as string });
  });

  it('is DIFF from the bitmap of the newest FULL', () => {
    const plan = planBackup(planInput('diff', [source('a', { bitmaps: tracked })], chain));
    expect(plan.disks[0]).toMatchObject({ level: 'diff', copyBitmap: full.bitmap!.name, parent: full });
  });

  it('is decided for each disk by itself, within one chain', () => {
    const disks = [source('a', { bitmaps: tracked }), source('b')];
    const plan = planBackup(planInput('auto', disks, chain));
    expect(plan).toMatchObject({ level: 'inc', chain: 'c1', number: 2 });
    expect(plan.disks.map(({ disk, level, reason }) => [disk, level, reason])).toEqual([
      ['a', 'inc', 'changes since INC-2.qcow2'],
      ['b', 'full', 'first backup of this disk'],
    ]);
  });

  const lost = (bitmaps: typeof tracked, more = {}): string =>
    refusal(() => planBackup(planInput('inc', [source('a', { bitmaps, ...more })], chain))).message;

  it.each([
    ['gone', lost([tracked[0]!]), 'is gone'],
    ['of another attempt', lost([bitmap(`${inc.bitmap!.name}x`)]), 'is gone'],
    ['inconsistent', lost([bitmap(inc.bitmap!.name, { inconsistent: true })]), 'is inconsistent'],
    ['disabled', lost([bitmap(inc.bitmap!.name, { recording: false })]), 'missed changes'],
    ['busy', lost([bitmap(inc.bitmap!.name, { busy: true })]), 'in use'],
    ['of a shrunk disk', lost(tracked, { virtualSize: 32 * MiB }), 'was shrunk'],
    ['of a qcow2 v2 image', lost(tracked, { compat: '0.10' }), 'qemu-img amend -o compat=1.1'],
  ])('is never INC when the bitmap is %s', (_, message, reason) => {
    expect(message).toContain(`a: `);
    expect(message).toContain(reason);
  });

  it('is FULL under auto where a file of the line is broken, and says which', () => {
    const brokenChains = new Map([['a/INC-2.qcow2', 'FULL-1.qcow2: it is missing']]);
    const plan = planBackup(planInput('auto', [source('a', { bitmaps: tracked })], chain, { brokenChains }));
    expect(plan.disks[0]).toMatchObject({ level: 'full', parent: null });
    expect(plan.disks[0]!.reason).toContain('FULL-1.qcow2: it is missing');
  });

  it('grows with the disk', () => {
    const plan = planBackup(planInput('inc', [source('a', { bitmaps: tracked, virtualSize: 128 * MiB })], chain));
    expect(plan.disks[0]).toMatchObject({ level: 'inc' });
  });

  it('of a copy touches neither chain nor bitmaps', () => {
    const plan = planBackup(planInput('copy', [source('a', { bitmaps: tracked })], chain));
    expect(plan).toMatchObject({ level: 'copy', chain: null });
    expect(plan.disks[0]).toMatchObject({ newBitmap: null, copyBitmap: null, file: 'COPY-1000.qcow2' });
  });
});

describe('a disk that no bitmap tells of', () => {
  const digests = { sha256: null, pieces: { bytes: 4 * MiB, sha256: 'b'.repeat(64), method: 'gmac' as const } };
  const proved = (file: string, more: Partial<PointDisk> = {}): PointDisk => entry('a', file, { ...digests, ...more });
  const [whole, newest] = [proved('FULL-1.qcow2'), proved('INC-2.qcow2', { parent: 'FULL-1.qcow2', bitmap: null })];
  const offline = catalog([point(0, [whole]), point(1, [newest])]);
  const plan = (
    more: Parameters<typeof source>[1] = {},
    input: Parameters<typeof planInput>[3] = {},
    before: Catalog = offline,
  ) => planBackup(planInput('auto', [source('a', more)], before, input));

  it('is compared with its newest file, which need not have a bitmap, and gets one', () => {
    expect(plan()).toMatchObject({ level: 'inc', chain: 'c1', number: 2 });
    const [disk] = plan().disks;
    expect(disk).toMatchObject({ level: 'inc', compares: true, copyBitmap: null, parent: newest });
    expect(disk!.newBitmap!.name).toMatch(/-a-abcdefabcdef$/);
    expect(disk!.reason).toMatch(/^the bitmap of FULL-1.qcow2 is gone .*: compared with INC-2.qcow2$/);
  });

  it.each([
    ['raw under libvirt', { cannotTrack: 'libvirt has no checkpoints for raw disks' }],
    ['qcow2 version 2', { compat: '0.10' }],
  ])('is compared at each run where it is %s', (_, more) => {
    expect(plan(more).disks[0]).toMatchObject({ level: 'inc', compares: true, parent: newest, newBitmap: null });
  });

  it('is not compared where its bitmap tells', () => {
    const [disk] = plan({ bitmaps: [bitmap(whole.bitmap!.name)] }).disks;
    expect(disk).toMatchObject({ level: 'inc', compares: false, parent: whole, copyBitmap: whole.bitmap!.name });
  });

  const suspect = catalog([point(0, [{ ...whole, suspect: 'zeros are lost' }]), point(1, [newest])]);
  const unproved = catalog([point(0, [{ ...whole, pieces: undefined }]), point(1, [newest])]);
  const others = catalog([point(0, [entry('b', 'FULL-1.qcow2')])]);
  it.each<[string, string, ReturnType<typeof plan>]>([
    ['--full-instead asks for one', 'is gone', plan({}, { request: request('auto', { fullInstead: true }) })],
    ['it was shrunk', 'was shrunk from', plan({ virtualSize: MiB })],
    [
      'a file of its chain is bad',
      'it is bad',
      plan({}, { brokenChains: new Map([[`a/${newest.file}`, 'it is bad']]) }),
    ],
    ['its chain is suspect', 'the content of FULL-1.qcow2 may be wrong', plan({}, {}, suspect)],
    ['its chain has no digests by pieces', 'FULL-1.qcow2 has no digests', plan({}, {}, unproved)],
    ['it has no file in the chain', 'first backup of this disk', plan({}, {}, others)],
  ])('gets a FULL where %s', (_, why, { disks: [disk] }) => {
    expect(disk).toMatchObject({ level: 'full', compares: false, parent: null });
    expect(disk!.reason).toContain(why);
  });

  it.each(['inc', 'diff'] as const)('is refused at --level %s', (level) => {
    const refused = refusal(() => planBackup(planInput(level, [source('a')], offline)));
    expect(refused).toMatchObject({ code: 'unsafe', message: expect.stringContaining('is gone') as string });
  });

  it('has no older bitmap that anybody needs, once it was compared', () => {
    const compared = proved('INC-3.qcow2', { parent: newest.file, compared: true });
    expect([...neededBitmaps(offline)]).toEqual([whole.bitmap!.name]);
    expect([...neededBitmaps(catalog([...offline.points, point(2, [compared])]))]).toEqual([compared.bitmap!.name]);
  });
});

describe('the chain', () => {
  it('goes on when all chosen disks need a FULL but another disk could go on', () => {
    const disks = [source('a', { bitmaps: tracked }), source('b')];
    const plan = planBackup(planInput('auto', disks, chain, { request: request('auto', { include: ['b'] }) }));
    expect(plan).toMatchObject({ level: 'full', chain: 'c1', number: 2 });
  });

  it('begins anew when every disk needs a FULL', () => {
    expect(planBackup(planInput('auto', [source('a')], chain))).toMatchObject({ number: 0, chain: 'abcdefabcdef' });
  });

  const disks = [source('a', { bitmaps: tracked }), source('b')];
  const due = (more: Partial<PlanRequest> = {}) => ({
    request: request('auto', { chainLimits: [{ kind: 'points', points: 2 }], ...more }),
  });

  it('begins anew for all disks where it is long enough, and says why', () => {
    const plan = planBackup(planInput('auto', disks, chain, due()));
    expect(plan).toMatchObject({ level: 'full', chain: 'abcdefabcdef', number: 0 });
    expect(plan.disks.map(({ level, reason, parent, copyBitmap }) => [level, reason, parent, copyBitmap])).toEqual([
      ['full', 'the chain has 2 points', null, null],
      ['full', 'the chain has 2 points', null, null],
    ]);
    const later = due({ chainLimits: [{ kind: 'points', points: 3 }] });
    expect(planBackup(planInput('auto', disks, chain, later))).toMatchObject({ level: 'inc', chain: 'c1', number: 2 });
  });

  it('begins anew then also without disks that are left out or fail, or it would be so at every run', () => {
    const anew = { chain: 'abcdefabcdef', number: 0 };
    const input = planInput('auto', disks, chain, due({ exclude: ['a'] }));
    expect(planBackup(input)).toMatchObject(anew);
    const all = planInput('auto', disks, chain, due());
    expect(withoutFailed(planBackup(all), [{ disk: 'a', why: 'I/O' }], all)).toMatchObject(anew);
  });

  it('goes on meanwhile while the VM is off, whose FULL would be followed by another', () => {
    const plan = planBackup(planInput('auto', disks.slice(0, 1), chain, { ...due(), bitmapName: null }));
    expect(plan).toMatchObject({ level: 'inc', chain: 'c1', number: 2 });
  });

  it('is old by the time of the run', () => {
    const nowSeconds = Date.parse('2026-11-22T12:00:00Z') / 1000;
    const of = (days: number) => ({ nowSeconds, ...due({ chainLimits: [{ kind: 'age', days }] }) });
    expect(planBackup(planInput('auto', disks, chain, of(1))).disks[0]).toMatchObject({
      reason: 'the chain is 24 hours old',
    });
    expect(planBackup(planInput('auto', disks, chain, of(1.1)))).toMatchObject({ level: 'inc' });
  });

  it('notes a disk that the VM no longer has', () => {
    const two = catalog([point(0, [full, entry('b', 'FULL-1.qcow2')])]);
    expect(planBackup(planInput('auto', [source('a')], two)).removed).toEqual(['b']);
  });
});

describe('which disks', () => {
  it.each(['a', '/machine/peripheral/a-dev/virtio-backend', 'a-dev', '#block-a', '/images/a.qcow2', 'a.qcow2'])(
    '%s names disk a',
    (name) => {
      const input = planInput('full', [source('a'), source('b')], undefined, {
        request: request('full', { include: [name] }),
      });
      const plan = planBackup(input);
      expect(plan.disks.map(({ disk }) => disk)).toEqual(['a']);
      expect(plan.leftOut).toEqual([{ name: 'b', reason: 'not named by --include', kind: 'request' }]);
    },
  );

  it('an unknown name is a usage error that lists the disks', () => {
    const input = planInput('full', [source('a')], undefined, { request: request('full', { exclude: ['zz'] }) });
    const error = refusal(() => planBackup(input));
    expect(error).toMatchObject({ code: 'usage' });
    expect(error.hint).toContain('a');
  });

  it('a disk that is left out anyway may be excluded, and cannot be included', () => {
    const vm = vmState([source('a')], { leftOut: [{ name: 'gone', reason: 'its image may be gone', kind: 'rule' }] });
    const input = (more: Partial<PlanRequest>) =>
      planInput('full', [source('a')], undefined, { vm, request: request('full', more) });
    expect(planBackup(input({ exclude: ['gone'] })).disks.map(({ disk }) => disk)).toEqual(['a']);
    expect(refusal(() => planBackup(input({ include: ['gone'] }))).message).toContain('its image may be gone');
  });

  it('an encrypted source is refused, unless plaintext is allowed, and then marked', () => {
    const encrypted = [source('a', { encrypted: true })];
    expect(refusal(() => planBackup(planInput('full', encrypted, undefined))).code).toBe('unsafe');
    const allowed = planInput('full', encrypted, undefined, { request: request('full', { allowPlaintext: true }) });
    expect(planBackup(allowed).warnings.join()).toContain('the source is encrypted');
  });

  it('a raw disk is tracked until QEMU ends, and a warning says so', () => {
    const plan = planBackup(planInput('full', [source('a', { format: 'raw', compat: null })], undefined));
    expect(plan.disks[0]!.newBitmap).toMatchObject({ persistent: false });
    expect(plan.warnings.join()).toContain('only until QEMU ends');
  });
});

it('file numbers come after every number in the folder, also of folders by other tools', () => {
  const files = new Map([['a', ['FULL-5000-disk.qcow2', 'INC-4000', 'notes.txt']]]);
  expect(planBackup(planInput('full', [source('a')], undefined, { files })).disks[0]!.file).toBe('FULL-5001.qcow2');
});
