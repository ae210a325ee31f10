import type { Catalog } from './catalog.js';
import { describedSource } from './chain.js';
import type { PieceDigest } from './pieces.js';
import { linkOf, type Point, type PointDisk } from './point.js';
import { withLevelOfDisks } from './rebase-plan.js';
import { withoutPoints } from './retire-points.js';

/** Points that go while later ones build on them: their data moves forward into a new file of the next point that stays. */
export interface MergeLine {
  readonly disk: string;
  /** What goes, oldest first, and last the file that stays; each builds on the one before. */
  readonly files: readonly PointDisk[];
  /** The point of the last. */
  readonly point: string;
}

/** A point that cannot go so. */
export interface Unmergeable {
  readonly point: string;
  readonly disk: string;
  readonly file: string;
  /** In words. */
  readonly why: string;
}

export interface ConsolidationPlan {
  /** In the order in which the points that stay were sealed. */
  readonly lines: readonly MergeLine[];
  readonly unmergeable: readonly Unmergeable[];
}

/** Which files have to be made so that the points of `dropped` can go. */
export function planConsolidation(catalog: Pick<Catalog, 'points'>, dropped: ReadonlySet<string>): ConsolidationPlan {
  const owners = ownersIn(catalog.points);
  const lines: MergeLine[] = [];
  const unmergeable: Unmergeable[] = [];
  const children = new Map<string, string>();
  for (const point of catalog.points) {
    if (dropped.has(point.id)) continue;
    for (const entry of point.disks) {
      if (entry.state === 'merged') continue;
      const files = new Set([entry]);
      for (let top = entry; top.parent !== null;) {
        const key = `${top.disk}/${top.parent}`;
        const below = owners.get(key);
        if (!below || !dropped.has(below.point) || files.has(below.entry)) break;
        const fault = whyNotMerged(below.entry, top, children.get(key));
        if (fault !== null)
          unmergeable.push({ point: below.point, disk: top.disk, file: below.entry.file, why: fault });
        children.set(key, top.file);
        files.add(below.entry);
        top = below.entry;
      }
      if (files.size === 1) continue;
      const line: MergeLine = { disk: entry.disk, files: [...files].reverse(), point: point.id };
      lines.push(line);
      const odd = hiddenTail(line, owners);
      if (odd) unmergeable.push({ point: odd.point, disk: entry.disk, file: odd.entry.file, why: odd.why });
    }
  }
  return { lines, unmergeable };
}

interface Owned {
  readonly point: string;
  readonly entry: PointDisk;
}

function ownersIn(points: readonly Point[]): ReadonlyMap<string, Owned> {
  const owners = new Map<string, Owned>();
  for (const { id, disks } of points) {
    for (const entry of disks)
      if (entry.state !== 'merged') owners.set(`${entry.disk}/${entry.file}`, { point: id, entry });
  }
  return owners;
}

/** `other`: what else needs it, and was met before. */
function whyNotMerged(file: PointDisk, child: PointDisk, other: string | undefined): string | null {
  if (other !== undefined && other !== child.file) return `${other} and ${child.file} build on it`;
  if (file.virtualSize > child.virtualSize) return `${child.file}, which builds on it, is a smaller disk`;
  if (file.state !== 'whole' || child.state !== 'whole') return `a rebase of ${file.disk} is half done`;
  return null;
}

/**
 * Past the end of a file the disk is zero, whatever is below: where it shrank and grew again, what lies there in the file that the line
 * builds on would show.
 */
function hiddenTail(
  line: MergeLine,
  owners: ReadonlyMap<string, Owned>,
): (Owned & { readonly why: string }) | undefined {
  const [first] = line.files;
  if (!first || first.virtualSize >= topOf(line).virtualSize) return undefined;
  const below = owners.get(`${line.disk}/${first.parent}`)?.entry;
  const own = owners.get(`${line.disk}/${first.file}`);
  if (!below || !own || below.virtualSize <= first.virtualSize) return undefined;
  return {
    ...own,
    why: `it is a smaller disk than ${below.file}, on which it builds, and ${topOf(line).file} a larger one`,
  };
}

/** A file that was made of a line, as it was sealed. Sizes are bytes. */
export interface MadeFile {
  readonly line: MergeLine;
  readonly file: string;
  readonly compressed: boolean;
  readonly size: number;
  readonly allocated: number;
  readonly mtimeMs: number;
  readonly sha256: string | null;
  readonly pieces?: PieceDigest | undefined;
}

/** Bytes that new files take more than those whose place they took. */
export function moreThanBefore(made: readonly Pick<MadeFile, 'line' | 'allocated'>[]): number {
  return made.reduce((sum, { line, allocated }) => sum + allocated - topOf(line).allocated, 0);
}

/** What a file says of its header from now on, by `<disk>/<file>`: those that build on a file which goes. */
export type Links = ReadonlyMap<string, NonNullable<PointDisk['link']>>;

/**
 * The catalog without the dropped points, and with the new files in the place of those that take their data over. Those are
 * retired, too.
 */
export function consolidated(
  catalog: Catalog,
  {
    dropped,
    made,
    links,
  }: { readonly dropped: ReadonlySet<string>; readonly made: readonly MadeFile[]; readonly links: Links },
): Catalog {
  const byOld = new Map(made.map((each) => [topKey(each.line), each]));
  const names = newNames(made);
  const entryOf = (entry: PointDisk): PointDisk => {
    const key = `${entry.disk}/${entry.file}`;
    const own = byOld.get(key);
    if (own) return mergedEntry(own, baseOf(own.line, names));
    const parent = names.get(`${entry.disk}/${entry.parent}`);
    return parent === undefined
      ? entry
      : { ...entry, parent, link: links.get(key) ?? { name: linkOf(entry) ?? parent } };
  };
  const points = catalog.points.map((point): Point =>
    dropped.has(point.id) ? point : withLevelOfDisks({ ...point, disks: point.disks.map(entryOf) }),
  );
  const next = withoutPoints({ ...catalog, points }, dropped);
  const replaced = made.map(({ line }) => ({ folder: line.disk, file: topOf(line).file }));
  return { ...next, retiredFiles: [...(next.retiredFiles ?? []), ...replaced] };
}

/** The children whose headers name a file that is replaced, with what they build on from then on. */
export function relinkedBy(
  catalog: Pick<Catalog, 'points'>,
  made: readonly Pick<MadeFile, 'line' | 'file'>[],
  dropped: ReadonlySet<string>,
): readonly { readonly entry: PointDisk; readonly parent: string }[] {
  const names = newNames(made);
  return catalog.points
    .filter(({ id }) => !dropped.has(id))
    .flatMap(({ disks }) => disks)
    .flatMap((entry) => {
      const parent = names.get(`${entry.disk}/${entry.parent}`);
      const isMade = names.has(`${entry.disk}/${entry.file}`);
      return parent === undefined || isMade || entry.state === 'merged' ? [] : [{ entry, parent }];
    });
}

/** The file of a line that stays. */
export function topOf({ files }: MergeLine): PointDisk {
  const top = files.at(-1);
  if (!top) throw new Error('a line without files');
  return top;
}

/** What new files are called, by `<disk>/<file>` of those whose place they take. */
export function newNames(made: readonly Pick<MadeFile, 'line' | 'file'>[]): ReadonlyMap<string, string> {
  return new Map(made.map(({ line, file }) => [topKey(line), file]));
}

function topKey(line: MergeLine): string {
  return `${line.disk}/${topOf(line).file}`;
}

/** The file that what is made of a line builds on, which may be new itself; null is none. */
export function baseOf({ disk, files }: MergeLine, names: ReadonlyMap<string, string>): string | null {
  const parent = files[0]?.parent ?? null;
  return names.get(`${disk}/${parent}`) ?? parent;
}

function mergedEntry(
  { line, file, compressed, size, allocated, mtimeMs, sha256, pieces }: MadeFile,
  base: string | null,
): PointDisk {
  const top = topOf(line);
  const { files } = line;
  const suspect = files.find((each) => each.suspect !== undefined)?.suspect;
  const merged = `${files.length - 1} older ${files.length === 2 ? 'file was' : 'files were'} merged into it`;
  return {
    ...top,
    link: undefined,
    ...{ file, parent: base, size, allocated, mtimeMs, sha256, pieces },
    level: base === null ? 'full' : top.level,
    // Bitmaps from before the comparison stay without use.
    compared: base !== null && files.some((each) => each.compared) ? true : undefined,
    reason: merged,
    changed: Math.min(
      top.virtualSize,
      files.reduce((sum, { changed }) => sum + changed, 0),
    ),
    plaintextOfEncrypted: files.some((each) => each.plaintextOfEncrypted),
    compressed,
    ...(suspect === undefined ? {} : { suspect }),
    ...(base === null ? { source: describedSource(files) ?? top.source } : {}),
  };
}
