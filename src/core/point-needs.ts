import type { Point } from './point.js';
import { parentsIn } from './point-space.js';

/** Points that follow one another in their chain; both are indexes among all points. */
export interface NeededRange {
  readonly first: number;
  readonly last: number;
}

/** Of each point of a target those that it needs, itself included, and how far back. Short at any length of the chain. */
export function neededPoints(points: readonly Point[]): readonly (readonly NeededRange[])[] {
  const order = chainOrder(points);
  const ranks = new Map(order.map((index, rank) => [index, rank]));
  const ranges: (readonly NeededRange[])[] = [];
  // A file builds on one that was sealed before it: what that needs is known.
  for (const [index, parents] of parentsOf(points).entries()) {
    const own = ranks.get(index) ?? 0;
    ranges.push(united([{ first: own, last: own }, ...parents.flatMap((parent) => ranges[parent] ?? [])]));
  }
  const at = (rank: number): number => order[rank] ?? 0;
  return ranges.map((each) => each.map(({ first, last }) => ({ first: at(first), last: at(last) })));
}

/**
 * Of each point since when all bytes that it needs are proved: the least of what `readAt` tells of its own files and of those of the
 * points that it builds on. ISO 8601; null where a file was not read yet.
 */
export function provedSince(
  points: readonly Point[],
  readAt: (file: Point['disks'][number]) => string | null,
): readonly (string | null)[] {
  const since: (string | null)[] = [];
  for (const [index, parents] of parentsOf(points).entries()) {
    const files = (points[index]?.disks ?? []).filter(({ state }) => state === 'whole');
    const times = [...files.map(readAt), ...parents.map((parent) => since[parent] ?? null)];
    since.push(times.length === 0 || times.includes(null) ? null : (times.toSorted()[0] ?? null));
  }
  return since;
}

/** Indexes, each once. */
function parentsOf(points: readonly Point[]): readonly (readonly number[])[] {
  const links = parentsIn(points.map((point) => ({ target: '', point })));
  return links.map((each) => [...new Set(each.map(({ parent }) => parent))]);
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
  const joined: NeededRange[] = [];
  for (const range of ranges.toSorted((a, b) => a.first - b.first)) {
    const before = joined.at(-1);
    if (before === undefined || range.first > before.last + 1) joined.push(range);
    else joined[joined.length - 1] = { first: before.first, last: Math.max(before.last, range.last) };
  }
  return joined;
}
