import { agreeing, counted } from '../../core/counted.js';
import type { Catalog } from '../../core/catalog.js';
import { type FileFault, NO_FOLDER } from '../../core/file-record.js';
import { hasDigest } from '../../core/pieces.js';
import type { PointDisk } from '../../core/point.js';
import { fileFinding } from '../../core/point-findings.js';
import { bytesOf, filesToRead, type ReadRequest } from '../../core/read-share.js';
import { type TargetFinding, targetFinding } from '../../core/target-finding.js';
import { fileKey, type FileVerdict, type VerifiedFile } from '../../core/verified.js';
import { QmpBackupError } from '../../errors.js';
import { inLanes } from '../../flow/lanes.js';
import { HASH_THREADS } from '../../host/hash-threads.js';
import { whyDamaged, whyTouched } from '../../repository/check-file.js';
import { isFolder } from '../../repository/file-state.js';
import { diskFolder, pathIn } from '../../repository/layout.js';
import { type RecordedLook, lookAtRecorded, whyNoPieceList } from '../../repository/look-at-recorded.js';
import type { VerifyRun } from './request.js';

/** Looks at recorded images, and reads those whose turn it is. */
export interface FilesLooked {
  readonly findings: readonly TargetFinding[];
  /** Files that cannot be used, `<disk>/<file>`. */
  readonly bad: ReadonlySet<string>;
  /** Why, of those that are there. */
  readonly faults: ReadonlyMap<string, FileFault>;
  readonly read: { readonly files: number; readonly bytes: number };
}

interface Task {
  readonly target: string;
  readonly catalog: Catalog;
  /** Those to look at, as the catalog has them. */
  readonly entries: readonly PointDisk[];
  readonly request: ReadRequest;
  readonly known: ReadonlyMap<string, VerifiedFile>;
  /** Told of each file as soon as it is judged. */
  readonly onVerdict: (verdict: FileVerdict) => Promise<void>;
}

export async function lookAtFiles(run: VerifyRun, task: Task): Promise<FilesLooked> {
  const found: TargetFinding[] = [];
  const bad = new Set<string>();
  const faults = new Map<string, FileFault>();
  const fault = async (entry: PointDisk, why: FileFault): Promise<void> => {
    bad.add(fileKey(entry));
    faults.set(fileKey(entry), why);
    found.push(fileFinding(entry.disk, entry.file, why));
    await task.onVerdict({ entry, fault: why, readWith: undefined });
  };
  const { there, gone } = await foldersOf(task);
  found.push(...gone);
  for (const entry of task.entries) if (!there.has(entry.disk)) bad.add(fileKey(entry));
  const entries = task.entries.filter(({ disk }) => there.has(disk));
  const looked = await lookAtEach(run, task, entries);
  for (const { entry, look, list } of looked) {
    if (look.fault) await fault(entry, look.fault);
    found.push(...remarksOn(entry, look, list));
  }

  const usable = looked.filter(({ look }) => !look.fault || look.fault.code === 'corrupt');
  const toRead = mustRead(task, usable);
  const total = bytesOf(toRead.map(({ entry }) => entry));
  let [done, files] = [0, 0];
  for (const { entry, look } of toRead) {
    const { disk, file } = entry;
    const onBytes = (bytes: number): void => run.report({ kind: 'reading', disk, done: (done += bytes), total });
    const options = { signal: run.signal, rateLimit: run.options.rateLimit, onBytes };
    const path = pathIn(diskFolder(task.target, disk), file);
    const why = hasDigest(entry)
      ? await whyDamaged(path, entry, options)
      : await whyTouched(path, entry, { mtimeMs: look.mtimeMs ?? 0, touched: true }, options);
    if (hasDigest(entry) && why?.code !== 'unreadable') files += 1;
    if (why) await fault(entry, why);
    else await task.onVerdict({ entry, fault: look.fault, readWith: look.mtimeMs });
  }
  // What has no digest is as right as it looks.
  const unproved = usable.filter(({ entry, look }) => !look.fault && !bad.has(fileKey(entry)) && !hasDigest(entry));
  for (const { entry } of unproved) await task.onVerdict({ entry, fault: undefined, readWith: undefined });
  return { findings: found, bad, faults, read: { files, bytes: done } };
}

/** One finding for a folder that is gone, and not for each of its files. */
async function foldersOf({ target, entries }: Task): Promise<{
  readonly there: ReadonlySet<string>;
  readonly gone: readonly TargetFinding[];
}> {
  const there = new Set<string>();
  const gone: TargetFinding[] = [];
  for (const disk of new Set(entries.map((each) => each.disk))) {
    const fault = await whyNoFolder(diskFolder(target, disk));
    if (!fault) there.add(disk);
    else {
      const todo = 'Put back the folder as it was, with its files.';
      gone.push(targetFinding({ level: 'error', subject: disk, ...fault, todo }));
    }
  }
  return { there, gone };
}

async function whyNoFolder(folder: string): Promise<FileFault | undefined> {
  try {
    return (await isFolder(folder)) ? undefined : { code: NO_FOLDER.code, why: 'its folder is missing or a link' };
  } catch (error) {
    if (error instanceof QmpBackupError) return { code: 'unreadable', why: error.message };
    throw error;
  }
}

interface Looked {
  readonly entry: PointDisk;
  readonly look: RecordedLook;
  /** Why the list of its pieces is of no use. */
  readonly list: string | undefined;
}

async function lookAtEach(run: VerifyRun, task: Task, entries: readonly PointDisk[]): Promise<readonly Looked[]> {
  const { signal } = run;
  const merging = new Map(
    task.catalog.points
      .flatMap(({ disks }) => disks)
      .filter(({ state, parent }) => state === 'merging' && parent === null)
      .map(({ disk, file }) => [disk, file]),
  );
  let done = 0;
  return inLanes(entries, HASH_THREADS, async (entry) => {
    signal.throwIfAborted();
    const path = pathIn(diskFolder(task.target, entry.disk), entry.file);
    const look = await lookAtRecorded(path, entry, { signal, mergingInto: merging.get(entry.disk) ?? null });
    const list = look.fault ? undefined : await whyNoPieceList(path, entry);
    run.report({ kind: 'looking', percent: ((done += 1) / entries.length) * 100 });
    return { entry, look, list };
  });
}

function remarksOn({ disk, file }: PointDisk, { leaks }: RecordedLook, list: string | undefined): TargetFinding[] {
  const found: TargetFinding[] = [];
  if (leaks > 0) {
    const why = `${counted(leaks, 'cluster')} in it ${agreeing(leaks, 'belongs', 'belong')} to nothing, which wastes space`;
    found.push(targetFinding({ level: 'warning', subject: disk, code: 'leaked', file, why, todo: null }));
  }
  if (list !== undefined) {
    const why = `${list}: damage of ${file} is found all the same, and not its place`;
    const of = { subject: disk, code: 'no-piece-list' as const, file: `${file}.pieces`, why };
    found.push(targetFinding({ level: 'warning', ...of, todo: null }));
  }
  return found;
}

/** Those whose turn it is, and those of which only their bytes tell whether they are right. */
function mustRead({ request, known }: Task, looked: readonly Looked[]): readonly Looked[] {
  const readable = looked.filter(({ look }) => look.mtimeMs !== undefined && !look.relinked);
  const knownOf = (entry: PointDisk): VerifiedFile | undefined => known.get(fileKey(entry));
  const chosen = new Set(
    filesToRead(
      readable.map(({ entry }) => entry),
      request,
      (entry) => knownOf(entry)?.readAt ?? null,
    ),
  );
  return readable.filter(({ entry, look }) => {
    const before = knownOf(entry);
    const isUnsure = look.touched && before?.mtimeMs !== look.mtimeMs;
    return chosen.has(entry) || isUnsure || (before?.damage && hasDigest(entry));
  });
}
