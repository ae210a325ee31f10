import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Point, PointDisk } from '../../../src/core/point.js';
import { freedAlone } from '../../../src/core/point-space.js';
import { withoutPoints } from '../../../src/core/retire-points.js';
import { catalog, entry, point } from '../../support/builders.js';
import { countedPoints } from '../../support/counted-points.js';
import { retained, rulesOf } from '../../support/histories.js';

/** What `prune` frees where every other point is pinned, by the files that it retires; 0 where it keeps the point. */
function freedByPrune(points: readonly Point[], { id }: Point): number {
  const history = points.map((each) => ({
    ...{ target: '/t', fault: null, good: new Set<string>(), tracked: false },
    point: each.id === id ? each : { ...each, pinned: true as const },
  }));
  const kept = retained(history, rulesOf({}), { allowRemoveAll: true });
  if (kept.every(({ reasons }) => reasons.length > 0)) return 0;
  const { retiredFiles = [] } = withoutPoints(catalog([...points]), new Set([id]));
  const entries = points.flatMap(({ disks }) => disks);
  const gone = retiredFiles.map(({ folder, file }) =>
    entries.find((each) => each.disk === folder && each.file === file),
  );
  return gone.reduce((sum, each) => sum + (each?.allocated ?? NaN), 0);
}

/** Points of two disks: each file builds on none, or on an older one, so that there are branches, too. */
const POINTS = fc
  .array(fc.tuple(fc.option(fc.nat(8), { freq: 8 }), fc.option(fc.nat(8), { freq: 3 })), {
    minLength: 1,
    maxLength: 12,
  })
  .map((specs) => {
    const files: Record<string, PointDisk[]> = { a: [], b: [] };
    return specs.flatMap((on, index): Point[] => {
      const disks = ['a', 'b'].flatMap((disk, which) => {
        const back = on[which];
        if (back === null || back === undefined) return [];
        const older = files[disk] ?? [];
        const parent = older.at(-1 - back) ?? null;
        const made = entry(disk, `${parent ? 'INC' : 'FULL'}-${index}.qcow2`, {
          parent: parent?.file ?? null,
          allocated: 2 ** index * (which + 1),
        });
        older.push(made);
        return [made];
      });
      return disks.length === 0 ? [] : [point(index, disks)];
    });
  });

describe('what the removal of one point frees', () => {
  it('is what prune frees of it', () => {
    fc.assert(
      fc.property(POINTS, (points) => {
        const freed = freedAlone(points);
        for (const each of points) expect(freed(each).bytes, each.id).toBe(freedByPrune(points, each));
      }),
    );
  });

  it('is nothing where others build on it, which are named, those of other disks and branches too', () => {
    const [full, other] = [entry('a', 'FULL-1.qcow2'), entry('b', 'FULL-1.qcow2')];
    const on = (disk: string, file: string): PointDisk => entry(disk, file, { parent: 'FULL-1.qcow2', allocated: 7 });
    const points = [
      point(0, [full, other]),
      point(1, [on('a', 'INC-2.qcow2'), on('b', 'INC-2.qcow2')]),
      point(2, [on('a', 'DIFF-3.qcow2')]),
      point(3, [entry('a', 'INC-4.qcow2', { parent: 'DIFF-3.qcow2', allocated: 5 })]),
    ];
    const freed = freedAlone(points);
    expect(points.map((each) => freed(each))).toEqual([
      { bytes: 0, neededBy: [points[1]!.id, points[2]!.id] },
      { bytes: 14, neededBy: [] },
      { bytes: 0, neededBy: [points[3]!.id] },
      { bytes: 5, neededBy: [] },
    ]);
  });

  it('counts a merged file of an older point for the one that has it now', () => {
    const full = entry('a', 'FULL-1.qcow2', { allocated: 9 });
    const points = [
      point(0, [{ ...full, state: 'merged' }]),
      point(1, [full]),
      point(2, [entry('a', 'INC-2.qcow2', { parent: full.file })]),
    ];
    const freed = freedAlone(points);
    expect(freed(points[0]!)).toEqual({ bytes: 0, neededBy: [] });
    expect(freed(points[1]!)).toEqual({ bytes: 0, neededBy: [points[2]!.id] });
  });

  it('takes as many looks for each point of a long chain as for one of a short one', () => {
    const looksOf = (count: number): number => {
      const { points, looks } = countedPoints(count);
      const freed = freedAlone(points);
      points.forEach(freed);
      return looks();
    };
    expect(looksOf(2000)).toBeLessThan(looksOf(200) * 10.1);
  });
});
