import type { Catalog } from './catalog.js';
import { isTrackingOverlay } from './overlay-names.js';
import { perCatalog } from './per-catalog.js';
import type { DiskSource, Point, PointDisk } from './point.js';
import { fileKey } from './verified.js';

/**
 * Questions about chains, answered from the catalog alone. A chain is a FULL point and the points that build on it;
 * parents are meant per disk.
 */

/** Id of the chain that the newest chain point belongs to, or undefined before the first. */
export function currentChain(catalog: Catalog | undefined): string | undefined {
  return catalog?.points.findLast((point) => point.chain !== null)?.chain ?? undefined;
}

export function pointsOfChain(catalog: Catalog, chain: string): readonly Point[] {
  return catalog.points.filter((point) => point.chain === chain);
}

/** The newest file of `disk` in `chain` (any chain when undefined); copies are outside every chain. */
export function latestFile(catalog: Catalog, disk: string, chain?: string): PointDisk | undefined {
  return latest(catalog, disk, chain, () => true);
}

/**
 * The newest file of `disk` in `chain` (any chain when undefined) that was sealed with a bitmap. Files without one, as of
 * a VM that was off, are passed over: an older bitmap has gone on recording what changed since its own file.
 */
export function latestTracked(catalog: Catalog, disk: string, chain?: string): PointDisk | undefined {
  return latest(catalog, disk, chain, (entry) => entry.bitmap !== null);
}

/** The newest FULL file of `disk` in `chain` (any chain when undefined). */
export function latestFull(catalog: Catalog, disk: string, chain?: string): PointDisk | undefined {
  return latest(catalog, disk, chain, (entry) => entry.level === 'full');
}

function latest(
  catalog: Catalog,
  disk: string,
  chain: string | undefined,
  accept: (entry: PointDisk) => boolean,
): PointDisk | undefined {
  // From the end and without a copy: a chain has thousands of points, and the newest is what is looked for.
  let found: PointDisk | undefined;
  catalog.points.findLast((point) => {
    if (point.chain === null || (chain !== undefined && point.chain !== chain)) return false;
    found = point.disks.find((each) => each.disk === disk && each.state === 'whole' && accept(each));
    return found !== undefined;
  });
  return found;
}

/** The entry that names `file`, with its point; merged files are gone and not found. */
export function findFile(
  catalog: Catalog,
  disk: string,
  file: string,
): { readonly point: Point; readonly entry: PointDisk } | undefined {
  for (const point of catalog.points) {
    const entry = point.disks.find((each) => each.disk === disk && each.file === file && each.state !== 'merged');
    if (entry) return { point, entry };
  }
  return undefined;
}

/**
 * The files that `entry` needs, FULL first and itself last. A gap (a parent that the catalog does not hold, or a loop)
 * is returned as the name of the missing file.
 */
export function backingChainOf(
  catalog: Catalog,
  entry: PointDisk,
): { readonly files: readonly PointDisk[] } | { readonly missing: string } {
  const parentOf = parentFileIn(catalog);
  const files: PointDisk[] = [entry];
  const names = new Set([entry.file]);
  for (let at = entry; at.parent !== null;) {
    const found = parentOf(at);
    // A file that is met again is a loop.
    if (!found || names.has(at.parent)) return { missing: at.parent };
    files.push(found);
    names.add(at.parent);
    at = found;
  }
  return { files: files.reverse() };
}

/** The files that are there by the catalog, by `<disk>/<file>`. */
export const filesThere = perCatalog(({ points }): ReadonlyMap<string, PointDisk> => {
  const there = points.flatMap(({ disks }) => disks).filter(({ state }) => state !== 'merged');
  return new Map(there.map((each) => [fileKey(each), each]));
});

/** Tells of a file which one it builds on; undefined where that is none, or the catalog does not hold it. */
export function parentFileIn(catalog: Catalog): (entry: PointDisk) => PointDisk | undefined {
  const there = filesThere(catalog);
  return ({ disk, parent }) => (parent === null ? undefined : there.get(fileKey({ disk, file: parent })));
}

/** Why the catalog alone says that a file's state cannot be had. */
export interface ChainFault {
  readonly code:
    /** Its content moved into a later point; the file is gone. */
    | 'merged'
    /** A rebase was moving its content into a later point when it died. */
    | 'merging'
    /** A rebase into its chain was interrupted. */
    | 'half-merged'
    /** The catalog does not hold a file that its chain needs. */
    | 'gap';
  /** The file that is meant. */
  readonly file: string;
  /** In words, without the disk. */
  readonly why: string;
}

/**
 * The files that `entry` needs, as `backingChainOf` (empty where they are not known), and why its state cannot be had. Of many
 * files, ask `chainsIn`.
 */
export function chainOf(
  catalog: Catalog,
  entry: PointDisk,
): { readonly files: readonly PointDisk[]; readonly fault: ChainFault | null } {
  const chain = entry.state === 'merged' ? { files: [] } : backingChainOf(catalog, entry);
  if ('missing' in chain) return { files: [], fault: faultIn(entry, chain) };
  const { files } = chain;
  return { files, fault: faultIn(entry, { full: files[0], merging: files.find(({ state }) => state === 'merging') }) };
}

/** What was found on the way from a file down to its FULL. */
export interface FoundBelow {
  /** The file that the catalog does not hold; null where it holds all. */
  readonly missing?: string | null;
  readonly full?: PointDisk | undefined;
  /** The oldest that a rebase was moving. */
  readonly merging?: PointDisk | undefined;
}

export function faultIn({ file, state }: PointDisk, { missing = null, full, merging }: FoundBelow): ChainFault | null {
  if (state === 'merged') return { code: 'merged', file, why: 'was merged into a later point' };
  if (missing !== null) return { code: 'gap', file: missing, why: `${missing} is missing` };
  if (state === 'merging') return { code: 'merging', file, why: 'is being merged into a later point' };
  if (!merging) return null;
  return { code: 'half-merged', file: merging.file, why: `a merge into ${full?.file} was interrupted` };
}

/**
 * The source of the last of `files`, a line with the FULL first, with QEMU's description of the image. Only whole files
 * record that: in every increment it would make a quarter of the catalog.
 */
export function describedSource(files: readonly PointDisk[]): DiskSource | undefined {
  const source = files.at(-1)?.source;
  return source && { ...source, image: files.findLast((each) => each.source.image !== null)?.source.image ?? null };
}

/** All disks the catalog ever saw, with the newest entry of each. */
export function knownDisks(catalog: Catalog | undefined): ReadonlyMap<string, PointDisk> {
  return catalog ? disksIn(catalog) : new Map();
}

const disksIn = perCatalog(({ points }): ReadonlyMap<string, PointDisk> => {
  const found = new Map<string, PointDisk>();
  for (const { disks } of points) for (const entry of disks) found.set(entry.disk, entry);
  return found;
});

/**
 * Names of the bitmaps that go on being needed: per disk those of its latest file that has one, and of its latest FULL. Where a disk
 * was compared since, its bitmaps had been lost, and what may be left of that of the FULL is kept for nobody.
 */
export const neededBitmaps = perCatalog((catalog): ReadonlySet<string> => {
  const names = new Set<string>();
  for (const disk of knownDisks(catalog).keys()) {
    const whole = latest(catalog, disk, undefined, ({ level, compared }) => level === 'full' || compared === true);
    const tracked = latestTracked(catalog, disk);
    if (tracked?.bitmap) names.add(tracked.bitmap.name);
    // No DIFF is made of an overlay, and each that stays makes the disk's own chain longer.
    if (whole?.level === 'full' && whole.bitmap && !isTrackingOverlay(whole.bitmap.name)) names.add(whole.bitmap.name);
  }
  return names;
});

/** Every bitmap name that this catalog ever recorded. */
export const recordedBitmaps = perCatalog(({ points, retired }): ReadonlySet<string> => {
  const names = new Set(retired);
  for (const { disks } of points) for (const { bitmap } of disks) if (bitmap) names.add(bitmap.name);
  return names;
});

/** The catalog with other modification times (ms) for some files, by `<disk>/<file>`. */
export function withModificationTimes(catalog: Catalog, times: ReadonlyMap<string, number>): Catalog {
  const points = catalog.points.map((point) => ({
    ...point,
    disks: point.disks.map((entry) => ({
      ...entry,
      mtimeMs: times.get(`${entry.disk}/${entry.file}`) ?? entry.mtimeMs,
    })),
  }));
  return { ...catalog, points };
}
