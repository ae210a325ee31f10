import { describe, expect, it } from 'vitest';
import { disksOf } from '../../../src/qemu/inspect.js';

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
  edges: [{ parent: 1, child: 2, name: 'file' }],
};

describe('the format node of a disk', () => {
  it('is found below the filter of a running job', () => {
    expect(disksOf([device(filter)], [filter, format], graph)?.disks.map((disk) => disk.node)).toEqual(['#fmt']);
  });

  it('is not guessed from replies between which a job ended: they are asked for again', () => {
    expect(disksOf([device(filter)], [format], graph)).toBeUndefined();
    expect(disksOf([device(filter)], [filter, format], { nodes: [], edges: [] })).toBeUndefined();
    expect(disksOf([device(format)], [format], { nodes: [], edges: [] })?.disks).toHaveLength(1);
  });
});
