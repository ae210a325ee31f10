import { describe, expect, it } from 'vitest';
import { planRestore, type PointRequest } from '../../../src/core/restore-plan.js';
import { catalog, entry, point } from '../../support/builders.js';

const source = { device: null, qdev: null, node: null, file: '/x', format: 'qcow2', image: null };
const disk = (id: string, more: Partial<typeof source> | object) =>
  entry(id, `FULL-1.qcow2`, { source: { ...source, ...more } });
const gone = disk('old', { device: 'virtio9' });
const known = catalog([
  point(0, [gone]),
  point(1, [
    disk('a', { device: 'virtio0', file: '/images/a/disk.qcow2' }),
    disk('b', { qdev: '/machine/peripheral/vd1/virtio-backend', file: '/images/b/disk.qcow2' }),
    disk('c', { node: 'fmt-c', file: '/dev/vg/c' }),
  ]),
]);

const chosen = (request: PointRequest): string => {
  const { disks, leftOut } = planRestore(known, { point: '1', ...request });
  return [...disks.map((each) => each.entry.disk), ...leftOut.map(({ name, reason }) => `${name}: ${reason}`)].join(
    ', ',
  );
};
const refusal = (code: string, message: string): Error =>
  expect.objectContaining({ code, message: expect.stringContaining(message) as string }) as Error;

describe('which disks of a point are restored', () => {
  it.each<[PointRequest, string]>([
    [{}, 'a, b, c'],
    [{ include: ['a'] }, 'a, b: not named by --include, c: not named by --include'],
    [{ include: ['virtio0', 'vd1'] }, 'a, b, c: not named by --include'],
    [{ include: ['fmt-c'] }, 'c, a: not named by --include, b: not named by --include'],
    [{ exclude: ['/images/b/disk.qcow2', 'c'] }, 'a, b: excluded by --exclude, c: excluded by --exclude'],
    [{ include: ['a', 'b'], exclude: ['a'] }, 'b, a: excluded by --exclude, c: not named by --include'],
    [{ disks: ['a', 'c'], exclude: ['a'] }, 'c, a: excluded by --exclude, b: not named by --disk'],
    // A disk that other points have: what is in a script goes on working when it is gone.
    [{ exclude: ['virtio9'] }, 'a, b, c'],
  ])('%j', (request, expected) => expect(chosen(request)).toBe(expected));

  it('is refused where a name fits none, or two, or nothing is left', () => {
    expect(() => chosen({ include: ['virtio9'] })).toThrow(refusal('usage', '--include virtio9: point 1 has no disk'));
    expect(() => chosen({ exclude: ['d9'] })).toThrow(refusal('usage', '--exclude d9: point 1 has no disk d9'));
    expect(() => chosen({ disks: ['virtio0'] })).toThrow(refusal('usage', '--disk virtio0: point 1 has no disk'));
    for (const option of ['include', 'exclude'] as const) {
      const both = `--${option} disk.qcow2 fits two disks of point 1: a and b`;
      expect(() => chosen({ [option]: ['disk.qcow2'] })).toThrow(refusal('usage', both));
    }
    expect(() => chosen({ exclude: ['a', 'b', 'c'] })).toThrow(refusal('unsafe', 'there is no disk of point 1'));
  });

  it('warns of a disk that the point lacks, unless what is wanted was named', () => {
    const twice = catalog([
      point(0, [disk('a', {}), disk('b', {})]),
      point(1, [{ ...disk('a', {}), file: 'FULL-2.qcow2' }]),
    ]);
    expect(planRestore(twice, {}).absent).toEqual(['b']);
    for (const request of [{ exclude: ['b'] }, { include: ['a'] }, { disks: ['a'] }]) {
      expect(planRestore(twice, request).absent).toEqual([]);
    }
  });
});
