import type { Catalog } from './catalog.js';
import { backingChainOf, type ChainFault, faultIn, filesThere, type FoundBelow, parentFileIn } from './chain.js';
import { nameIn } from './point-name.js';
import type { Point, PointDisk } from './point.js';
import { fileKey } from './verified.js';

/** Over all chains of a target, each file once: what the catalog itself lacks, and what files that are bad cost. */

/** Files whose parent the catalog does not hold, or that build on themselves in the end. */
export function gapsIn(catalog: Catalog): readonly PointDisk[] {
  const parentOf = parentFileIn(catalog);
  const rooted = new Set<PointDisk>();
  const gaps = new Set<PointDisk>();
  for (const entry of filesThere(catalog).values()) {
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

/** Of a file (`<disk>/<file>`), the names of those below it that are damaged, and of which its state shows nothing that is. */
export type Healed = ReadonlyMap<string, ReadonlySet<string>>;

/** Names of the points, of those in question, that need a file of `bad` or build on a gap: they cannot be restored as a whole. */
export function lostPoints(
  catalog: Catalog,
  points: readonly Point[],
  bad: ReadonlySet<string>,
  healed: Healed = new Map(),
): readonly string[] {
  const parentOf = parentFileIn(catalog);
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
  const isLostThough = (entry: PointDisk): boolean => {
    const fine = healed.get(fileKey(entry));
    if (!fine) return isLost(entry);
    const below = backingChainOf(catalog, entry);
    return 'missing' in below || below.files.some((each) => bad.has(fileKey(each)) && !fine.has(each.file));
  };
  return points.filter(({ disks }) => disks.some(isLostThough)).map((point) => nameIn(point, catalog.points));
}

/** The chain of a file, without a list of its files. */
export interface ChainSummary<Found> {
  /** How many they are; 0 where that is not known. */
  readonly files: number;
  /** They, FULL first; listed when asked for. */
  readonly list: () => readonly PointDisk[];
  readonly fault: ChainFault | null;
  /** What was found of each, FULL first; empty where they are not known. */
  readonly found: readonly Found[];
}

/**
 * `chainOf` for every file of a catalog: the lists of all files would grow with the square of their number, this takes as many
 * steps as there are files. `own` tells what there is to say of one.
 */
export function chainsIn<Found = never>(
  catalog: Catalog,
  own: (entry: PointDisk) => readonly Found[] = () => [],
): (entry: PointDisk) => ChainSummary<Found> {
  const parentOf = parentFileIn(catalog);
  const known = new Map<PointDisk, Walked<Found>>();
  const walk = (entry: PointDisk): Walked<Found> | undefined => {
    const before = known.get(entry);
    if (before) return before;
    const parent = parentOf(entry);
    const under = parent && known.get(parent);
    // Almost always, as files are asked for in their order.
    if (entry.parent === null || under) {
      const walked = withOwn(entry, under, own(entry));
      known.set(entry, walked);
      return walked;
    }
    const way: PointDisk[] = [];
    const met = new Set<PointDisk>();
    let at: PointDisk | undefined = entry;
    for (; at && !known.has(at) && !met.has(at); at = parentOf(at)) {
      way.push(at);
      met.add(at);
    }
    // Files that build on each other: each of them is missing below itself.
    const loop = at && met.has(at) ? way.splice(way.indexOf(at)) : [];
    for (const each of loop) known.set(each, { files: 0, found: [], missing: each.file });
    let below = at && known.get(at);
    for (const each of way.toReversed()) {
      below = withOwn(each, below, own(each));
      known.set(each, below);
    }
    return known.get(entry);
  };
  return (entry) => {
    const walked = entry.state === 'merged' ? undefined : walk(entry);
    const fault = faultIn(entry, walked ?? {});
    if (walked?.missing !== null) return { files: 0, list: () => [], found: [], fault };
    return { files: walked.files, list: () => listTo(entry, parentOf), found: walked.found, fault };
  };
}

function listTo(entry: PointDisk, parentOf: ReturnType<typeof parentFileIn>): readonly PointDisk[] {
  const files: PointDisk[] = [];
  for (let at: PointDisk | undefined = entry; at; at = parentOf(at)) files.push(at);
  return files.reverse();
}

interface Walked<Found> extends FoundBelow {
  readonly files: number;
  readonly found: readonly Found[];
  readonly missing: string | null;
}

/** `below` is what is known of the file that `entry` builds on. A list that nothing is added to is shared. */
function withOwn<Found>(entry: PointDisk, below: Walked<Found> | undefined, own: readonly Found[]): Walked<Found> {
  const found = below?.found ?? [];
  return {
    files: (below?.files ?? 0) + 1,
    found: own.length === 0 ? found : [...found, ...own],
    missing: below ? below.missing : entry.parent,
    full: below?.full ?? entry,
    merging: below?.merging ?? (entry.state === 'merging' ? entry : undefined),
  };
}
