import { QmpBackupError } from '../errors.js';
import type { Catalog } from './catalog.js';
import { describedSource } from './chain.js';
import type { Level } from './level.js';
import { listNames } from './listed-names.js';
import { DEFINITION_FOLDER } from './names.js';
import type { PieceDigest } from './pieces.js';
import type { Point, PointDisk } from './point.js';

/**
 * What a rebase merges, and what the catalog says before, during and after it. A merge moves the content of a line
 * FULL <- … <- head into the FULL file, which then is the head's file; every other state that was built on the FULL
 * dies with it.
 */
export interface RebaseFile {
  readonly file: string;
  readonly parent: string | null;
  readonly level: Level;
  readonly state: 'whole' | 'merging';
  /** Bytes. */
  readonly virtualSize: number;
}

export interface RebasePlan {
  /** FULL first, each building on the one before, the head (whose state the FULL will hold) last. */
  readonly line: readonly RebaseFile[];
  readonly full: RebaseFile;
  readonly head: RebaseFile;
  /** Older files on other branches of the FULL, whose states are lost by the merge. */
  readonly side: readonly RebaseFile[];
  /** Files that build on the head, and will on the FULL. */
  readonly children: readonly RebaseFile[];
  /** An interrupted merge is being finished. */
  readonly resumes: boolean;
}

/**
 * Plans the merge for one disk from its `files` in the order in which they were made (copies left out). The newest
 * FULL's branch up to its newest file, or up to `until`. A plan whose line is the FULL alone has nothing to merge.
 *
 * @throws QmpBackupError `usage` when there is no file `until`; `unsafe`, by name, for a gap, a shrunk disk, a newer
 * file that would lose its parent, or another `until` than the one of an interrupted merge.
 */
export function planRebase(files: readonly RebaseFile[], until?: string): RebasePlan {
  const merging = files.filter(({ state }) => state === 'merging');
  const head = merging.length > 0 ? interruptedHead(files, merging, until) : headToRead(files, until);
  const line = chainTo(files, head);
  const full = line[0] ?? head;
  // A FULL that an interrupted merge let grow is larger than the files merged into it, and rightly so.
  if (merging.length === 0) refuseShrunk(line);

  const absorbed = new Set(line.slice(0, -1).map(({ file }) => file));
  const above = descendants(files, new Set([head.file]));
  const side = descendants(files, absorbed).filter((each) => !line.includes(each) && !above.includes(each));
  const newer = side.filter((each) => each.state === 'whole' && files.indexOf(each) > files.indexOf(head));
  if (newer.length > 0) {
    throw new QmpBackupError(
      'unsafe',
      `${newer.map(({ file, parent }) => `${file} builds on ${parent}`).join(', ')}, which merging up to ${head.file} would change`,
      { hint: 'Merge up to the newest file instead: leave out --until.' },
    );
  }
  return {
    line,
    full,
    head,
    side,
    children: files.filter(({ parent }) => parent === head.file),
    resumes: merging.length > 0,
  };
}

/**
 * The files that the state of `until` (or of the newest file of the newest FULL's branch) needs, FULL first, for a
 * command that only reads.
 *
 * @throws QmpBackupError as `planMerge`, and `unsafe` while a merge into the line is unfinished
 */
export function chainToRead(files: readonly RebaseFile[], until?: string): readonly RebaseFile[] {
  const head = headToRead(files, until);
  const line = chainTo(files, head);
  const merging = line.find(({ state }) => state === 'merging');
  if (!merging) return line;
  throw new QmpBackupError('unsafe', `${head.file} cannot be read: a merge into ${line[0]?.file} was interrupted`, {
    hint: 'Finish it: qmpbackup rebase --dir TARGET/DISK',
  });
}

/** The file that `until` names, with or without its extension. */
export function fileNamed(files: readonly RebaseFile[], until: string): RebaseFile {
  const found = files.find(({ file }) => file === until) ?? files.find(({ file }) => file === `${until}.qcow2`);
  if (found) return found;
  const names = files.map(({ file }) => file);
  throw new QmpBackupError('usage', `there is no file ${until}`, {
    hint: names.length === 0 ? 'The folder holds no backup of this disk.' : `There are: ${listNames(names)}`,
  });
}

/** The file whose state is meant by `until`, or by nothing: see `chainToRead`. */
export function headToRead(files: readonly RebaseFile[], until: string | undefined): RebaseFile {
  if (until !== undefined) return fileNamed(files, until);
  const full = files.findLast(({ level }) => level === 'full');
  if (!full) {
    throw new QmpBackupError('unsafe', 'there is no FULL file to merge into', {
      hint: 'Check that --dir is the folder of one disk.',
    });
  }
  const branch = descendants(files, new Set([full.file]));
  return files.findLast((each) => branch.includes(each)) ?? full;
}

/** While a merge is unfinished, the only file that builds on what is being merged is its head. */
function interruptedHead(
  files: readonly RebaseFile[],
  merging: readonly RebaseFile[],
  until: string | undefined,
): RebaseFile {
  const names = new Set(merging.map(({ file }) => file));
  const heads = files.filter(({ state, parent }) => state === 'whole' && parent !== null && names.has(parent));
  const [head] = heads;
  if (!head || heads.length > 1) {
    throw new QmpBackupError(
      'unsafe',
      `an interrupted merge of ${[...names].join(', ')} cannot be finished: ${head ? `${heads.map(({ file }) => file).join(' and ')} build on it` : 'the file to merge is not there'}`,
      { hint: 'Restore from another chain; take a new full backup.' },
    );
  }
  if (until !== undefined && fileNamed(files, until) !== head) {
    throw new QmpBackupError('unsafe', `a merge up to ${head.file} was interrupted and has to be finished first`, {
      hint: `Run it again with --until ${head.file}, or without --until.`,
    });
  }
  return head;
}

function chainTo(files: readonly RebaseFile[], head: RebaseFile): readonly RebaseFile[] {
  const line = [head];
  for (let first = head; first.parent !== null;) {
    const { file, parent } = first;
    const found = files.find((each) => each.file === parent);
    if (!found || line.includes(found)) {
      throw new QmpBackupError('unsafe', `${parent} is missing, on which ${file} builds`, {
        hint: 'Put the file back, or merge a chain that is whole. Nothing was changed.',
      });
    }
    line.unshift(found);
    first = found;
  }
  if (line[0]?.level !== 'full') {
    throw new QmpBackupError('unsafe', `${line[0]?.file} is no FULL file, and builds on nothing`, {
      hint: 'The chain has no beginning. Nothing was changed.',
    });
  }
  return line;
}

/** A disk that shrank and is merged would keep its old size. Our own backups start anew at that point. */
function refuseShrunk(line: readonly RebaseFile[]): void {
  for (const [index, each] of line.entries()) {
    const before = line[index - 1];
    if (!before || each.virtualSize >= before.virtualSize) continue;
    throw new QmpBackupError('unsafe', `${each.file} is a smaller disk than ${before.file}, on which it builds`, {
      hint: `Use merge or restore, which write a new image, or merge up to ${before.file}.`,
    });
  }
}

/** All files that build on one of `roots`, directly or not. */
function descendants(files: readonly RebaseFile[], roots: ReadonlySet<string>): readonly RebaseFile[] {
  const found = new Set<RebaseFile>();
  const names = new Set(roots);
  // In rounds, because nothing says that a catalog has parents before children; each round finds one or is the last.
  for (let before = -1; before < found.size;) {
    before = found.size;
    for (const each of files) {
      if (each.parent === null || found.has(each) || !names.has(each.parent)) continue;
      found.add(each);
      names.add(each.file);
    }
  }
  return files.filter((each) => found.has(each));
}

// --- the catalog -----------------------------------------------------------------------------------------------------

/** The files of `disk` that the catalog holds, oldest first; copies are in no chain and are left out. */
export function rebaseFiles(catalog: Catalog, disk: string): readonly RebaseFile[] {
  return catalog.points
    .filter(({ chain }) => chain !== null)
    .flatMap(({ disks }) => disks)
    .flatMap((entry) => {
      const { file, parent, level, state, virtualSize } = entry;
      return entry.disk === disk && state !== 'merged' ? [{ file, parent, level, state, virtualSize }] : [];
    });
}

/** Before the first byte is merged: the points whose content is about to move are not restorable any more. */
export function markMerging(catalog: Catalog, disk: string, plan: RebasePlan): Catalog {
  const names = new Set([...plan.line.slice(0, -1), ...plan.side].map(({ file }) => file));
  return mapEntries(catalog, disk, (entry) => (names.has(entry.file) ? { ...entry, state: 'merging' } : entry));
}

/** What a file is after the merge. Sizes are bytes. */
export interface FileFacts {
  readonly size: number;
  readonly allocated: number;
  readonly mtimeMs: number;
  readonly sha256: string | null;
  readonly pieces: PieceDigest | undefined;
}

/**
 * After the last byte: the head is the FULL file now, its children build on it, and what was absorbed is merged.
 * `facts` has the FULL and every child. The files that are still to be removed are exactly those of `leftovers`.
 */
export function settleRebase(
  catalog: Catalog,
  disk: string,
  plan: RebasePlan,
  facts: ReadonlyMap<string, FileFacts>,
): Catalog {
  const entries = catalog.points.flatMap(({ disks }) => disks).filter((entry) => entry.disk === disk);
  const line = plan.line.map(({ file }) => entries.find((entry) => entry.state !== 'merged' && entry.file === file));
  const children = new Set(plan.children.map(({ file }) => file));
  const settled = mapEntries(catalog, disk, (entry): PointDisk => {
    if (entry.file === plan.head.file) {
      return {
        ...entry,
        ...facts.get(plan.full.file),
        file: plan.full.file,
        level: 'full',
        parent: null,
        link: undefined,
        compared: undefined,
        source: describedSource(line.filter((each) => each !== undefined)) ?? entry.source,
        plaintextOfEncrypted: line.some((each) => each?.plaintextOfEncrypted),
        compressed: line.some((each) => each?.compressed),
      };
    }
    if (children.has(entry.file))
      return { ...entry, ...facts.get(entry.file), parent: plan.full.file, link: undefined };
    if (entry.state !== 'merging') return entry;
    // The FULL file lives on as the head's. What is gone with this point is the file that the head had, so its name is
    // kept here: a crash before the files are removed must not leave one that no catalog knows.
    return { ...entry, state: 'merged', file: entry.file === plan.full.file ? plan.head.file : entry.file };
  });
  return { ...settled, points: settled.points.map(withLevelOfDisks) };
}

/**
 * Files whose content has moved on and that no entry needs any more, and the definitions of points of which nothing is
 * left: to be removed, then `dropMerged`.
 */
export function leftovers(catalog: Catalog): readonly { readonly disk: string; readonly file: string }[] {
  const entries = catalog.points.flatMap(({ disks }) => disks);
  const needed = new Set(entries.filter(({ state }) => state !== 'merged').map(({ disk, file }) => `${disk}/${file}`));
  const merged = entries.filter(({ state, disk, file }) => state === 'merged' && !needed.has(`${disk}/${file}`));
  const definitions = catalog.points.filter(isMerged).flatMap(({ definition }) => definition?.files ?? []);
  return [
    ...merged.map(({ disk, file }) => ({ disk, file })),
    ...definitions.map(({ file }) => ({ disk: DEFINITION_FOLDER, file })),
  ];
}

/** Points of which nothing is left go, and their bitmaps are retired. Only after the leftovers were removed. */
export function dropMerged(catalog: Catalog): Catalog {
  const gone = catalog.points.filter(isMerged);
  if (gone.length === 0) return catalog;
  const bitmaps = gone.flatMap(({ disks }) => disks).flatMap(({ bitmap }) => (bitmap ? [bitmap.name] : []));
  return {
    ...catalog,
    points: catalog.points.filter((point) => !gone.includes(point)),
    retired: [...new Set([...catalog.retired, ...bitmaps])],
  };
}

function isMerged({ disks }: Point): boolean {
  return disks.every(({ state }) => state === 'merged');
}

function mapEntries(catalog: Catalog, disk: string, change: (entry: PointDisk) => PointDisk): Catalog {
  return {
    ...catalog,
    points: catalog.points.map((point) =>
      point.chain === null
        ? point
        : {
            ...point,
            disks: point.disks.map((entry) =>
              entry.disk === disk && entry.state !== 'merged' ? change(entry) : entry,
            ),
          },
    ),
  };
}

/** A point all of whose remaining disks are FULL files is a full point, which needs no other. */
export function withLevelOfDisks(point: Point): Point {
  const left = point.disks.filter(({ state }) => state !== 'merged');
  const isFull = left.length > 0 && left.every(({ level }) => level === 'full');
  return isFull && point.chain !== null ? { ...point, level: 'full' } : point;
}
