import type { Catalog } from './catalog.js';
import type { Point, PointDisk } from './point.js';
import { nameOf } from './restore-plan.js';
import { fileKey } from './verified.js';

/** Over all chains of a target, each file once: what the catalog itself lacks, and what files that are bad cost. */
interface Links {
  /** Files that are there by the catalog, by `<disk>/<file>`. */
  readonly entries: ReadonlyMap<string, PointDisk>;
  readonly parentOf: (entry: PointDisk) => PointDisk | undefined;
}

function linksOf(catalog: Catalog): Links {
  const there = catalog.points.flatMap(({ disks }) => disks).filter(({ state }) => state !== 'merged');
  const entries = new Map(there.map((each) => [fileKey(each), each]));
  const parentOf = ({ disk, parent }: PointDisk): PointDisk | undefined =>
    parent === null ? undefined : entries.get(fileKey({ disk, file: parent }));
  return { entries, parentOf };
}

/** Files whose parent the catalog does not hold, or that build on themselves in the end. */
export function gapsIn(catalog: Catalog): readonly PointDisk[] {
  const { entries, parentOf } = linksOf(catalog);
  const rooted = new Set<PointDisk>();
  const gaps = new Set<PointDisk>();
  for (const entry of entries.values()) {
    const way = new Set<PointDisk>();
    let at: PointDisk | undefined = entry;
    for (; at && !rooted.has(at) && !way.has(at); at = parentOf(at)) {
      way.add(at);
      if (at.parent !== null && !parentOf(at)) gaps.add(at);
    }
    if (at && way.has(at)) gaps.add(at);
    for (const each of way) rooted.add(each);
  }
  return [...gaps];
}

/** Names of the points, of those in question, that need a file of `bad` or build on a gap: they cannot be restored as a whole. */
export function lostPoints(catalog: Catalog, points: readonly Point[], bad: ReadonlySet<string>): readonly string[] {
  const { parentOf } = linksOf(catalog);
  const known = new Map<PointDisk, boolean>();
  for (const gap of gapsIn(catalog)) known.set(gap, true);
  const isLost = (entry: PointDisk): boolean => {
    const way: PointDisk[] = [];
    let lost = false;
    for (let at: PointDisk | undefined = entry; at; at = parentOf(at)) {
      const before = known.get(at);
      if (before === undefined) way.push(at);
      lost = before ?? bad.has(fileKey(at));
      if (lost || before !== undefined) break;
    }
    for (const each of way) known.set(each, lost);
    return lost;
  };
  return points.filter(({ disks }) => disks.some(isLost)).map((point) => nameOf(point, catalog));
}
