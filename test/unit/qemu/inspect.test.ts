import { describe, expect, it } from 'vitest';
import { disksOf, isInactive } from '../../../src/qemu/inspect.js';

const node = (name: string, drv: string) => ({
  'node-name': name,
  drv,
  ro: false,
  file: `${name}.img`,
  backing_file_depth: 0,
  image: { filename: `${name}.img`, format: drv, 'virtual-size': 1024 },
});
const device = (top: ReturnType<typeof node>) => ({
  device: 'd1',
  type: 'unknown',
  removable: false,
  locked: false,
  inserted: top,
});
const filter = node('#job', 'copy-before-write');
const format = node('#fmt', 'qcow2');
const graph = {
  nodes: [
    { id: 1, type: 'block-driver', name: '#job' },
    { id: 2, type: 'block-driver', name: '#fmt' },
  ],
  edges: [{ parent: 1, child: 2, name: 'file', perm: [] }],
};

describe('the format node of a disk', () => {
  it('is found below the filter of a running job', () => {
    expect(disksOf([device(filter)], [filter, format], graph)?.disks.map((disk) => disk.address)).toEqual(['#fmt']);
  });

  it('is not guessed from replies between which a job ended: they are asked for again', () => {
    expect(disksOf([device(filter)], [format], graph)).toBeUndefined();
    expect(disksOf([device(filter)], [filter, format], { nodes: [], edges: [] })).toBeUndefined();
    expect(disksOf([device(format)], [format], { nodes: [], edges: [] })?.disks).toHaveLength(1);
  });
});

describe('a SCSI device whose commands the guest gives itself', () => {
  const at = (qdev: string) => ({ ...device(format), qdev });
  const guest = (type: string) => [
    { name: 'sd0', path: '/machine/peripheral/sd0', type },
    { name: '/machine/peripheral-anon/device[1]', path: '/machine/peripheral-anon/device[1]', type },
  ];
  const kinds = (type: string, qdev: string) => {
    const found = disksOf([at(qdev)], [format], { nodes: [], edges: [] }, [], guest(type));
    return [found?.disks.length, ...(found?.leftOut ?? []).map(({ kind }) => kind)];
  };

  it('is left out: no bitmap knows its writes', () => {
    for (const type of ['scsi-block', 'scsi-generic']) {
      expect(kinds(type, 'sd0')).toEqual([0, 'rule']);
      expect(kinds(type, '/machine/peripheral-anon/device[1]')).toEqual([0, 'rule']);
      expect(kinds(type, '/machine/peripheral-anon/device[10]')).toEqual([1]);
    }
    expect(kinds('scsi-hd', 'sd0')).toEqual([1]);
  });

  it('is so too where QEMU has made it below a usb-storage', () => {
    const qdev = '/machine/peripheral/us/us.0/legacy[0]';
    const usb = { name: 'us', path: '/machine/peripheral/us', type: 'usb-storage' };
    const left = (type: string) =>
      disksOf([at(qdev)], [format], { nodes: [], edges: [] }, [], [usb, { name: qdev, path: qdev, type }])?.leftOut;
    expect(left('scsi-generic')).toMatchObject([{ kind: 'rule' }]);
    expect(left('scsi-hd')).toEqual([]);
  });
});

describe('a disk that QEMU does not own', () => {
  const around = (device: string[], file: string[]) => ({
    nodes: [
      { id: 1, type: 'block-backend', name: 'd1' },
      { id: 2, type: 'block-driver', name: '#fmt' },
      { id: 3, type: 'block-driver', name: '#file' },
    ],
    edges: [
      { parent: 1, child: 2, name: 'root', perm: device },
      { parent: 2, child: 3, name: 'file', perm: file },
    ],
  });

  it('is one to which nobody may write, neither the guest nor the format', () => {
    const disk = { address: '#fmt', qdev: '/machine/peripheral/d1' };
    expect(isInactive(disk, around([], ['consistent-read']))).toBe(true);
    expect(isInactive(disk, around(['consistent-read', 'write'], ['consistent-read', 'write']))).toBe(false);
    expect(isInactive(disk, around([], ['write', 'resize']))).toBe(false);
    expect(isInactive({ ...disk, qdev: null }, around([], []))).toBe(false);
  });
});

describe('a temporary overlay', () => {
  const file = 'json:{"driver": "qcow2", "file": {"driver": "file", "filename": "/var/tmp/vl.H7XFZ3"}}';
  const [base, above] = [{ ...node('#base', 'qcow2'), file }, node('above', 'qcow2')];
  const stacked = {
    nodes: ['above', '#base'].map((name, id) => ({ id, type: 'block-driver', name })),
    edges: [{ parent: 0, child: 1, name: 'backing', perm: [] }],
  };
  const temporary = (top: typeof base & { cache?: { 'no-flush': boolean } }): unknown =>
    disksOf([device(top)], [top, base], stacked)?.disks[0]?.temporary;

  it('makes what blockdev-snapshot-sync puts above it one, too, and not what was opened for itself', () => {
    expect(temporary(base)).toBe(true);
    expect(temporary({ ...above, cache: { 'no-flush': true } })).toBe(true);
    expect(temporary({ ...above, cache: { 'no-flush': false } })).toBeUndefined();
    expect(
      disksOf([device(above)], [{ ...above, cache: { 'no-flush': true } }], stacked)?.disks[0]?.temporary,
    ).toBeUndefined();
  });
});

describe('what a disk has allocated', () => {
  const sized = (name: string, size: number | undefined, drv = 'qcow2') => {
    const plain = node(name, drv);
    return { ...plain, image: { ...plain.image, ...(size === undefined ? {} : { 'actual-size': size }) } };
  };
  const chain = (...names: string[]) => ({
    nodes: names.map((name, id) => ({ id, type: 'block-driver', name })),
    edges: names.slice(1).map((_, id) => ({ parent: id, child: id + 1, name: 'backing', perm: [] })),
  });
  const allocated = (nodes: ReturnType<typeof sized>[]): number | undefined =>
    disksOf([device(nodes[0]!)], nodes, chain(...nodes.map((each) => each['node-name'])))?.disks[0]?.allocated;

  it('is summed along its backing files, up to its virtual size', () => {
    expect(allocated([sized('top', 100), sized('middle', 20), sized('base', 3)])).toBe(123);
    expect(allocated([sized('top', 600), sized('base', 600)])).toBe(1024);
    expect(allocated([sized('top', 0)])).toBe(0);
  });

  it('is all of it where QEMU does not say, and on a block device, whose file has no blocks', () => {
    expect(allocated([sized('top', undefined, 'rbd')])).toBe(1024);
    const [format, protocol] = [sized('top', 0, 'raw'), sized('device', 0, 'host_device')];
    const nodes = [format, { ...protocol, file: format.file }];
    expect(disksOf([device(format)], nodes, chain('top'))?.disks[0]?.allocated).toBe(1024);
  });
});
