import { contextOf } from '../../backends/verb-context.js';
import type { AskedPoint } from '../../backends/vm-options.js';
import { globMatcher } from '../../core/glob.js';
import { printable } from '../../core/printable.js';
import { warning } from '../../core/warning.js';
import { QmpBackupError } from '../../errors.js';
import { unwinding } from '../../flow/unwind.js';
import type { GuestReader, LocatedFile, Volume } from '../../guest-files/reader.js';
import { SEEN_BEFORE, seenFolders } from '../../guest-files/seen-folders.js';
import { requireCatalog } from '../../repository/catalog-file.js';
import { openPoint } from '../../repository/open-point.js';
import { realTarget } from '../../repository/real-target.js';
import { type FilesContext, openPointForFiles, proved } from './begin.js';
import { nameOfVolume, readersFor, volumesOf } from './find-path.js';
import { filesFindOptions, type FilesFindRequest } from './options.js';

export interface FoundState {
  /** The point in words. */
  readonly point: string;
  /** Against the point before that was looked at and has the disk. */
  readonly state: 'first' | 'new' | 'changed' | 'same' | 'gone';
  /** Bytes, and seconds since 1970; null where it is gone. */
  readonly size: number | null;
  readonly mtime: number | null;
}

export interface FoundInPoints {
  /** Where it is, in words. */
  readonly volume: string;
  /** The same as `--disk` and `--partition` take it. */
  readonly disk: string | null;
  readonly partition: string;
  readonly path: string;
  readonly states: readonly FoundState[];
}

export interface FilesFindResult {
  readonly target: string;
  /** The points that were looked at, in words, oldest first. */
  readonly points: readonly string[];
  readonly found: readonly FoundInPoints[];
  /** The points that could not be looked at. */
  readonly skipped: readonly SkippedPoint[];
  /** Folders that were not looked into, being in another place, too: the file system is damaged. */
  readonly leftOut: readonly string[];
}

export interface SkippedPoint {
  /** In words. */
  readonly point: string;
  readonly why: string;
  /** What was read of it is not what was backed up. */
  readonly damaged: boolean;
}

interface Seen {
  readonly volume: Volume;
  readonly file: LocatedFile;
}

interface SeenPoint {
  readonly point: string;
  /** Ids of those that it has. */
  readonly disks: ReadonlySet<string>;
  readonly files: ReadonlyMap<string, Seen>;
  readonly leftOut: readonly string[];
}

/**
 * Files by name, in every point of the newest chain, or in one. A file has changed where its size, its time, the time of its
 * entry (ctime) or its inode is another; its bytes are not compared. Of a chain what is wrong with single points is told,
 * and the others are looked at.
 *
 * @throws QmpBackupError as `filesLs`, also where no point can be looked at
 */
export async function filesFind(
  request: FilesFindRequest,
  given: Partial<FilesContext> = {},
): Promise<FilesFindResult> {
  const [options, context] = [filesFindOptions(request), contextOf(given)];
  const target = await realTarget(options.target);
  const [seen, skipped]: [SeenPoint[], SkippedPoint[]] = [[], []];
  const points = await pointsToLookAt(target, options);
  let first: QmpBackupError | undefined;
  for (const point of points) {
    try {
      seen.push(await lookInto({ ...options, ...point }, context));
    } catch (error) {
      if (!isOfThePoint(error)) throw error;
      first ??= error;
      const { name } = await openPoint(target, point, { look: 'catalog' });
      skipped.push({ point: name, why: error.message, damaged: error.code === 'damaged' });
    }
  }
  if (first && seen.length === 0) throw first;
  for (const { point, why } of skipped) {
    context.report({ kind: 'warning', ...warning('not-looked-at', `${point} was not looked at: ${why}`) });
  }
  const leftOut = [...new Set(seen.flatMap((each) => each.leftOut))];
  return { target, points: seen.map(({ point }) => point), found: statesOf(seen), skipped, leftOut };
}

/** Something is wrong with its files: others may be whole. */
function isOfThePoint(error: unknown): error is QmpBackupError {
  return error instanceof QmpBackupError && (error.code === 'unsafe' || error.code === 'damaged');
}

type FindOptions = ReturnType<typeof filesFindOptions>;

function lookInto(options: FindOptions, context: FilesContext): Promise<SeenPoint> {
  return unwinding(async (unwind) => {
    const { point, files } = await openPointForFiles(options, context, unwind);
    const leftOut: string[] = [];
    return proved(files, context, async () => {
      const matches = globMatcher(options.name);
      const [found, done] = [new Map<string, Seen>(), new Set<string>()];
      for await (const reader of readersFor(files, options)) {
        for (const volume of await volumesOf(reader, options)) {
          const name = nameOfVolume(volume);
          if (done.has(name)) continue;
          done.add(name);
          const top = await reader.find(volume, options.path);
          if (!top) continue;
          await walk(top, {
            ...{ reader, volume, signal: context.signal, isFirst: seenFolders(), leaveOut },
            visit: (file) => {
              if (matches(file.name)) found.set(`${name}\0${file.path}`, { volume, file });
            },
          });
        }
      }
      const disks = new Set(point.disks.map(({ disk }) => disk));
      return { point: point.name, disks, files: found, leftOut };
    });

    function leaveOut({ path }: LocatedFile): void {
      const text = `${printable(path)} is not looked into: ${SEEN_BEFORE}`;
      context.report({ kind: 'warning', ...warning('file-left-out', text) });
      leftOut.push(path);
    }
  });
}

interface Walk extends Pick<FilesContext, 'signal'> {
  readonly reader: GuestReader;
  readonly volume: Volume;
  readonly visit: (file: LocatedFile) => void;
  readonly isFirst: (folder: LocatedFile) => boolean;
  readonly leaveOut: (folder: LocatedFile) => void;
}

async function walk(file: LocatedFile, walking: Walk): Promise<void> {
  const { reader, volume, signal, visit, isFirst, leaveOut } = walking;
  signal.throwIfAborted();
  if (file.path !== '/') visit(file);
  if (file.kind !== 'folder') return;
  if (!isFirst(file)) leaveOut(file);
  else for (const child of await reader.list(volume, file)) await walk(child, walking);
}

/** As `--point` takes them: all of the newest chain, unless one was named. */
async function pointsToLookAt(target: string, { point: named, at }: AskedPoint): Promise<readonly AskedPoint[]> {
  if (named !== undefined || at !== undefined) return [{ point: named, at }];
  const { points } = await requireCatalog(target);
  const newest = points.findLast(({ level }) => level !== 'copy');
  const chain = points.filter((point) => point.chain === newest?.chain && point.level !== 'copy');
  return chain.map(({ id }) => ({ point: id, at: undefined }));
}

function statesOf(seen: readonly SeenPoint[]): readonly FoundInPoints[] {
  const keys = [...new Set(seen.flatMap(({ files }) => [...files.keys()]))].toSorted();
  const everyDisk = new Set(seen.flatMap(({ disks }) => [...disks]));
  return keys.flatMap((key) => {
    const first = seen.find(({ files }) => files.has(key))?.files.get(key);
    if (!first) return [];
    // A logical volume may lie on any of the disks.
    const disks = first.volume.disk === null ? [...everyDisk] : [first.volume.disk];
    const states: FoundState[] = [];
    let before: LocatedFile | undefined;
    for (const [index, { point, disks: its, files }] of seen.entries()) {
      const now = files.get(key)?.file;
      if (now) {
        const state = index === 0 ? 'first' : !before ? 'new' : isSame(before, now) ? 'same' : 'changed';
        states.push({ point, state, size: now.size, mtime: now.mtime });
        before = now;
      } else if (before && disks.every((disk) => its.has(disk))) {
        states.push({ point, state: 'gone', size: null, mtime: null });
        before = undefined;
      }
    }
    return [{ ...placeOf(first.volume), path: first.file.path, states }];
  });
}

function placeOf(volume: Volume): Pick<FoundInPoints, 'volume' | 'disk' | 'partition'> {
  return { volume: nameOfVolume(volume), disk: volume.disk, partition: volume.name };
}

function isSame(a: LocatedFile, b: LocatedFile): boolean {
  return (
    a.size === b.size && a.mtime === b.mtime && a.changed === b.changed && a.inode === b.inode && a.kind === b.kind
  );
}
