import type { Point } from './point.js';
import { linksIn, type PointLink, type PointLinks } from './point-space.js';

/** Points that follow one another in their chain; both are indexes among all points. */
export interface NeededRange {
  readonly first: number;
  readonly last: number;
}

/** What a point stands on. */
export interface PointNeeds {
  /** The points that it needs, itself included: short at any length of the chain. */
  readonly ranges: readonly NeededRange[];
  /**
   * Since when all bytes of these are proved: the least of what `readAt` tells of their files. ISO 8601; null where one was not read
   * yet.
   */
  readonly provedAt: string | null;
}

/** Of each point of a target. */
export function needsOf(
  points: readonly Point[],
  readAt: (file: Point['disks'][number]) => string | null,
  links: PointLinks = linksIn(points),
): readonly PointNeeds[] {
  const order = chainOrder(points);
  const ranks: number[] = [];
  for (const [rank, index] of order.entries()) ranks[index] = rank;
  const at = (rank: number): number => order[rank] ?? 0;
  const needs: PointNeeds[] = [];
  // By ranks until all are known. A file builds on one that was sealed before it: what that needs is known.
  for (const [index, { disks }] of points.entries()) {
    const own = ranks[index] ?? 0;
    const ranges: NeededRange[] = [{ first: own, last: own }];
    const reads: (string | null)[] = [];
    for (const file of disks) if (file.state === 'whole') reads.push(readAt(file));
    for (const parent of parentsOf(links[index] ?? [])) {
      const below = needs[parent];
      if (!below) continue;
      ranges.push(...below.ranges);
      reads.push(below.provedAt);
    }
    needs.push({ ranges: united(ranges), provedAt: earliest(reads) });
  }
  return needs.map(({ ranges, provedAt }) => ({
    ranges: ranges.map(({ first, last }) => ({ first: at(first), last: at(last) })),
    provedAt,
  }));
}

/** Each once, though several disks build on it. */
function parentsOf(links: readonly PointLink[]): Iterable<number> {
  return links.length > 1 ? new Set(links.map(({ parent }) => parent)) : links.map(({ parent }) => parent);
}

/** Null where there is a null, or nothing. */
function earliest(times: readonly (string | null)[]): string | null {
  let found: string | null = null;
  for (const time of times) {
    if (time === null) return null;
    if (found === null || time < found) found = time;
  }
  return found;
}

/** Indexes of the points, chain after chain. */
function chainOrder(points: readonly Point[]): readonly number[] {
  const chains = new Map<string | null, number[]>();
  for (const [index, { chain }] of points.entries()) {
    const known = chains.get(chain);
    if (known) known.push(index);
    else chains.set(chain, [index]);
  }
  return [...chains.values()].flat();
}

function united(ranges: readonly NeededRange[]): readonly NeededRange[] {
  const [first, second] = ranges;
  if (first === undefined || second === undefined) return ranges;
  // An increment, on the one that was made before it.
  if (ranges.length === 2 && second.last + 1 === first.first) return [{ first: second.first, last: first.last }];
  const joined: NeededRange[] = [];
  for (const range of ranges.toSorted((a, b) => a.first - b.first)) {
    const before = joined.at(-1);
    if (before === undefined || range.first > before.last + 1) joined.push(range);
    else joined[joined.length - 1] = { first: before.first, last: Math.max(before.last, range.last) };
  }
  return joined;
}
