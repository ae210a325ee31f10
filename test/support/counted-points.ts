import type { Point, PointDisk } from '../../src/core/point.js';
import { entry, point } from './builders.js';

/**
 * A FULL and increments of one disk, each on the one before. Counts how often the files are looked at: time on a busy machine
 * would not tell whether the work grows with the square of their number.
 */
export function countedPoints(
  count: number,
  more: Partial<PointDisk> = {},
): { readonly points: Point[]; readonly looks: () => number } {
  let looks = 0;
  const files = Array.from({ length: count }, (_, index) => `${index === 0 ? 'FULL' : 'INC'}-${index}.qcow2`);
  const points = files.map((file, index) => {
    const made = entry('a', file, { parent: files[index - 1] ?? null, ...more });
    const counted = new Proxy(made, {
      get: (of, key, receiver) => {
        looks += 1;
        return Reflect.get(of, key, receiver) as unknown;
      },
    });
    return point(index, [counted]);
  });
  return { points, looks: () => looks };
}
