import { rm } from 'node:fs/promises';
import { contextOf, type VerbContext, type WarningEvent } from '../../backends/verb-context.js';
import type { DigestMethod } from '../../core/pieces.js';
import { type FileFacts, planRebase, type RebaseFile, type RebasePlan } from '../../core/rebase-plan.js';
import { type Warn, warning } from '../../core/warning.js';
import { QmpBackupError } from '../../errors.js';
import { unwinding } from '../../flow/unwind.js';
import { syncFile, syncFolder } from '../../host/durable.js';
import { warnOfSpace } from '../../host/warn-of-space.js';
import { chosenChain, readRebaseNote, removeRebaseNote, writeRebaseNote } from '../../import/legacy-disk.js';
import { readLegacyFolder } from '../../import/legacy-folder.js';
import { readHeader } from '../../qemu-tools/examine.js';
import { viewOf } from '../../qemu-tools/image-view.js';
import { check, commit, compare, rebaseUnsafe } from '../../qemu-tools/steps.js';
import { readCatalog, writeCatalog } from '../../repository/catalog-file.js';
import { digestByPieces, findDigestFault } from '../../repository/digest.js';
import { type DiskFolder, locateDisk, lockForReading, pathInDisk } from '../../repository/disk-folder.js';
import { allocatedBy, fileState } from '../../repository/file-state.js';
import { lockTarget } from '../../repository/lock.js';
import { refuseOpenFiles } from '../../repository/open-mark.js';
import { removePieceList, replacePieceList } from '../../repository/piece-list.js';
import { refuseUnsealedFiles, unsealedRun, unsealedRunFinding } from '../../repository/unsealed-run.js';
import {
  catalogLedger,
  type Finished,
  finishNote,
  type Ledger,
  type LedgerDeps,
  legacyLedger,
  NOTHING,
} from './rebase-ledger.js';
import { type RebaseOptions, rebaseOptions, type RebaseRequest } from './options.js';

/**
 * Merges FULL <- … <- head of one disk into the FULL file. Any step may be the last one of a run that is killed: the
 * next run with the same request ends in the same bytes. Why, is said at each step of `merge` below.
 */
export type RebaseEvent =
  | WarningEvent
  | { readonly kind: 'planned'; readonly plan: RebaseSummary }
  | { readonly kind: 'checking'; readonly file: string }
  /** `count` clusters that were counted and not used: a killed merge leaves some. */
  | { readonly kind: 'repaired-leaks'; readonly file: string; readonly count: number }
  /** `percent` of 0 to 100, of the whole. */
  | { readonly kind: 'progress'; readonly step: 'merging' | 'comparing'; readonly percent: number }
  | { readonly kind: 'hashing'; readonly file: string }
  | { readonly kind: 'relinked'; readonly file: string; readonly parent: string }
  | { readonly kind: 'removed'; readonly files: readonly string[] };

/** File names, oldest first. */
export interface RebaseSummary {
  readonly dir: string;
  /** The file that everything is merged into. */
  readonly full: string;
  /** The file whose state the FULL then holds. Equal to `full` when there is nothing to merge. */
  readonly head: string;
  /** Files whose content moves into the FULL; the head is the last. */
  readonly merged: readonly string[];
  /** Older files of other branches, whose states are lost. */
  readonly lost: readonly string[];
  /** Files that build on the FULL from then on. */
  readonly relinked: readonly string[];
  /** An interrupted merge is finished. */
  readonly resumes: boolean;
}

export interface RebaseResult extends RebaseSummary {
  readonly dryRun: boolean;
  /** Files removed by this run, also those that an earlier one left. */
  readonly removed: readonly string[];
}

export type RebaseContext = VerbContext<RebaseEvent>;

export interface RebaseDeps extends LedgerDeps {
  readonly lockTarget: typeof lockTarget;
  readonly readCatalog: typeof readCatalog;
  readonly readLegacyFolder: typeof readLegacyFolder;
  readonly readRebaseNote: typeof readRebaseNote;
  readonly check: typeof check;
  readonly commit: typeof commit;
  readonly compare: typeof compare;
  readonly syncFile: typeof syncFile;
  readonly digestByPieces: typeof digestByPieces;
  readonly replacePieceList: typeof replacePieceList;
  /** Increments that are merged at once: more of them take long to open. */
  readonly filesAtOnce: number;
}

export const defaultRebaseDeps: RebaseDeps = {
  lockTarget,
  readCatalog,
  writeCatalog,
  readLegacyFolder,
  readRebaseNote,
  writeRebaseNote,
  removeRebaseNote,
  removeFile,
  fileState,
  digestByPieces,
  findDigestFault,
  replacePieceList,
  removePieceList,
  syncFile,
  syncFolder,
  check,
  commit,
  compare,
  rebaseUnsafe,
  filesAtOnce: 100,
};

/**
 * @throws QmpBackupError `usage`, `no-catalog`, `locked`; `unsafe` for what must not be merged, by name; `damaged` when
 * an image or the result is; `failed` in qemu-img's own words. After any of them it can be run again.
 */
export function rebase(
  request: RebaseRequest,
  given: Partial<RebaseContext> = {},
  deps: RebaseDeps = defaultRebaseDeps,
): Promise<RebaseResult> {
  return unwinding(async (unwind) => {
    const [options, context] = [rebaseOptions(request), contextOf(given)];
    const folder = await locateDisk(options.dir);
    const warn: Warn = (said) => context.report({ kind: 'warning', ...said });
    const locking = { breakLock: options.breakLock, purpose: `rebase of ${folder.disk}` };
    const lock = options.dryRun
      ? await lockForReading(deps.lockTarget, folder.target, locking, warn)
      : await deps.lockTarget(folder.target, locking);
    if (lock) unwind.defer(() => lock.release());
    const signal = lock ? AbortSignal.any([context.signal, lock.signal]) : context.signal;
    const run: Run = { folder, options, signal, warn, report: context.report, deps };

    const { ledger, earlier } = await openLedger(run);
    const { removed } = earlier;
    if (removed.length > 0) context.report({ kind: 'removed', files: removed });
    const { until } = options;
    if (until !== undefined && names(earlier.merged, until)) {
      // An earlier run had merged it and died while it tidied up; there is nothing left to do for this request.
      const nothing = { merged: [], lost: [], relinked: [], resumes: true };
      return { dir: folder.dir, full: until, head: until, ...nothing, dryRun: false, removed };
    }
    const plan = planRebase(ledger.files, until);
    const summary = summaryOf(folder, plan);
    context.report({ kind: 'planned', plan: summary });
    if (plan.line.length === 1) return { ...summary, dryRun: options.dryRun, removed };
    refusePinned(ledger, plan);
    const touched = [...plan.line, ...plan.side, ...plan.children].map(({ file }) => `${folder.disk}/${file}`);
    await refuseOpenFiles(folder.target, touched, options);
    await prove(run, ledger, plan);
    if (options.dryRun) return { ...summary, dryRun: true, removed };
    await merge(run, ledger, plan);
    const finished = await ledger.finish();
    context.report({ kind: 'removed', files: finished.removed });
    return { ...summary, dryRun: false, removed: [...removed, ...finished.removed] };
  });
}

/** What had begun before it was pinned has to be finished. */
function refusePinned({ pinned }: Ledger, plan: RebasePlan): void {
  if (plan.resumes) return;
  const lost = [...plan.line.slice(0, -1), ...plan.side].find(({ file }) => pinned.has(file));
  if (!lost) return;
  throw new QmpBackupError('unsafe', `${lost.file} is of ${pinned.get(lost.file)}, whose state the merge would take`, {
    hint: 'Merge up to an older file with --until, or take the pin away: qmpbackup unpin',
  });
}

interface Run {
  readonly folder: DiskFolder;
  readonly options: RebaseOptions;
  /** Aborts on a signal to the tool or when the lock is lost. */
  readonly signal: AbortSignal;
  readonly warn: Warn;
  readonly report: (event: RebaseEvent) => void;
  readonly deps: RebaseDeps;
}

/**
 * The catalog where it knows the disk, else the folder itself, as the Python tools leave it. What a merge that was
 * settled left to remove is removed first: `earlier`.
 */
async function openLedger(run: Run): Promise<{ readonly ledger: Ledger; readonly earlier: Finished }> {
  const { folder, options, deps, warn } = run;
  const catalog = await deps.readCatalog(folder.target);
  const dead = await unsealedRun(folder.target, catalog);
  // Its files are in no line that is merged, and its bitmaps and jobs ask for the VM.
  if (dead) warn(warning('dead-run', unsealedRunFinding(dead).what));
  if (catalog?.points.some(({ disks }) => disks.some(({ disk }) => disk === folder.disk))) {
    const ledger = catalogLedger(folder, catalog, deps);
    return { ledger, earlier: options.dryRun ? NOTHING : await ledger.finish() };
  }
  await refuseUnsealedFiles(folder.target, catalog, folder.disk);
  let note = await deps.readRebaseNote(folder.dir);
  let earlier = NOTHING;
  if (note?.phase === 'merged') {
    if (options.dryRun) {
      throw new QmpBackupError('unsafe', `an interrupted rebase of ${folder.dir} has files left to remove`, {
        hint: 'Run rebase without --dry-run to finish it.',
      });
    }
    earlier = await finishNote(folder, note, deps);
    note = undefined;
  }
  const chains = await deps.readLegacyFolder(folder.dir);
  const asked = options.until !== undefined && names(earlier.merged, options.until) ? undefined : options.until;
  const chain = chosenChain(folder.dir, chains, asked ?? note?.head);
  chain.notes.forEach((note) => warn(warning('file-ignored', note)));
  if (note && !chain.files.some(({ name }) => name === note.full)) {
    throw new QmpBackupError('unsafe', `a merge up to ${note.head} was interrupted and has to be finished first`, {
      hint: 'Run it again without --until.',
    });
  }
  return { ledger: await legacyLedger(folder, chain, note, deps), earlier };
}

function names(files: readonly string[], until: string): boolean {
  return files.includes(until) || files.includes(`${until}.qcow2`);
}

function summaryOf({ dir }: DiskFolder, plan: RebasePlan): RebaseSummary {
  const namesOf = (files: readonly RebaseFile[]): readonly string[] => files.map(({ file }) => file);
  const merges = plan.line.length > 1;
  return {
    dir,
    full: plan.full.file,
    head: plan.head.file,
    merged: namesOf(plan.line.slice(1)),
    lost: namesOf(plan.side),
    relinked: merges ? namesOf(plan.children) : [],
    resumes: plan.resumes,
  };
}

/** Everything that can be found wrong is found before the first change. */
async function prove(run: Run, ledger: Ledger, plan: RebasePlan): Promise<void> {
  const { folder, options, signal, report, warn } = run;
  const { dryRun, rateLimit } = options;
  const onFile = (file: string): void => report({ kind: 'hashing', file });
  await ledger.verify(plan, { signal, dryRun, digests: !options.skipCheck, rateLimit, onFile });
  for (const { file } of plan.line) {
    // A merge that was killed leaves leaks behind, and perhaps worse: that FULL is checked whatever was asked for.
    const mustCheck = plan.resumes && file === plan.full.file;
    if (options.skipCheck && !mustCheck) continue;
    report({ kind: 'checking', file });
    const repairLeaks = mustCheck && !dryRun;
    const found = await checked(run, file, repairLeaks);
    if (repairLeaks && found.leaksFixed > 0) report({ kind: 'repaired-leaks', file, count: found.leaksFixed });
    else if (found.leaks > 0)
      warn(
        warning('clusters-leaked', `${file} has ${found.leaks} leaked clusters, which waste space and harm nothing`),
      );
  }
  // The FULL grows by no more than what is merged into it; often by less, because clusters are replaced.
  const need = await allocatedBy(folder.dir, plan.line.slice(1));
  await warnOfSpace(folder.dir, { need, what: `the merge into ${plan.full.file}` }, { warn, signal });
}

async function checked(run: Run, file: string, repairLeaks: boolean): ReturnType<typeof check> {
  const { folder, signal, deps } = run;
  const found = await deps.check(pathInDisk(folder, file), { repairLeaks, signal });
  if (found.corruptions === 0 && found.checkErrors === 0) return found;
  throw new QmpBackupError('damaged', `qemu-img check found damage in ${file}: ${found.corruptions} corruptions`, {
    hint: 'It was not merged any further. Restore from another chain, and take a new full backup.',
  });
}

/**
 * The steps of a merge. Before `begin` nothing has changed. From then on the catalog says `merging` and names the one
 * head that can be merged, so that a run after a crash plans the same merge again, whatever step was the last.
 */
async function merge(run: Run, ledger: Ledger, plan: RebasePlan): Promise<void> {
  const { folder, signal, deps, report } = run;
  signal.throwIfAborted();
  await ledger.begin(plan);

  // Writes every cluster that a file above the FULL holds, and reads none of those from the FULL: half of it done, or
  // all of it, and done again gives the same. The files above are only read.
  await commitChain(run, plan);
  await deps.syncFile(pathInDisk(folder, plan.full.file));
  await proveResult(run, plan);
  signal.throwIfAborted();

  // Done again this writes the same header. A run that finds the new link puts the old one back for a moment, to
  // compare the file with its digest.
  const relinks = ledger.relinks(plan);
  for (const { file, parent } of relinks) {
    await deps.rebaseUnsafe(pathInDisk(folder, file), parent);
    await deps.syncFile(pathInDisk(folder, file));
    report({ kind: 'relinked', file, parent });
  }

  const facts = new Map<string, FileFacts>();
  for (const file of [plan.full.file, ...relinks.map((each) => each.file)]) {
    facts.set(file, await factsOf(run, file, ledger.digestOf(file, plan)));
  }
  signal.throwIfAborted();

  // The merge is done when this is written. Until then the files above are there to be merged again; from then on they
  // are needed by nothing, and still known, so that `finish` of this or of a later run removes them.
  await ledger.settle(plan, facts);
}

async function commitChain(run: Run, plan: RebasePlan): Promise<void> {
  const { folder, options, signal, deps, report } = run;
  const { file: full } = plan.full;
  const slices = slicesOf(plan.line.slice(1), deps.filesAtOnce);
  for (const [index, slice] of slices.entries()) {
    const overall = (step: 'merging' | 'comparing') => (percent: number) =>
      report({ kind: 'progress', step, percent: (index * 100 + percent) / slices.length });
    const view = viewOf([full, ...slice.map(({ file }) => file)]);
    const long = { cwd: folder.dir, signal, rateLimit: options.rateLimit };
    await deps.commit(view, full, { ...long, onProgress: overall('merging') });
    if (options.skipCheck || (await hasGrownBeyond(folder, full, slice))) continue;
    const same = await deps.compare(view, viewOf([full]), { ...long, onProgress: overall('comparing') });
    if (!same) throw wrongResult(full, `it does not hold the state of ${slice.at(-1)?.file}`);
  }
}

/** A later slice, merged by a run that was killed, has let the FULL grow: only the last comparison can be made then. */
async function hasGrownBeyond(folder: DiskFolder, full: string, slice: readonly RebaseFile[]): Promise<boolean> {
  const { virtualSize } = await readHeader(pathInDisk(folder, full), full);
  return virtualSize > (slice.at(-1)?.virtualSize ?? 0);
}

function slicesOf<T>(all: readonly T[], length: number): readonly (readonly T[])[] {
  return Array.from({ length: Math.ceil(all.length / length) }, (_, index) =>
    all.slice(index * length, (index + 1) * length),
  );
}

async function proveResult(run: Run, { full, head }: RebasePlan): Promise<void> {
  const { virtualSize } = await readHeader(pathInDisk(run.folder, full.file), full.file);
  if (virtualSize !== head.virtualSize) {
    throw wrongResult(full.file, `it is a disk of ${virtualSize} bytes, ${head.file} is one of ${head.virtualSize}`);
  }
  if (!run.options.skipCheck) await checked(run, full.file, false);
}

function wrongResult(full: string, why: string): QmpBackupError {
  return new QmpBackupError('damaged', `the merge into ${full} went wrong: ${why}`, {
    hint: 'Nothing was removed. Check the storage, then run it again.',
  });
}

async function factsOf(
  { folder, signal, report, deps }: Run,
  file: string,
  digest: DigestMethod | null,
): Promise<FileFacts> {
  const path = pathInDisk(folder, file);
  if (digest) report({ kind: 'hashing', file });
  const found = digest && (await deps.digestByPieces(path, digest, { signal }));
  await deps.replacePieceList(path, found);
  const state = await deps.fileState(path);
  if (!state) throw new QmpBackupError('unsafe', `${file} vanished while it was merged`);
  return { ...state, sha256: null, pieces: found?.pieces };
}

async function removeFile(path: string): Promise<boolean> {
  try {
    await rm(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw new QmpBackupError('failed', `cannot remove ${path}: ${(error as Error).message}`, {
      cause: error,
      hint: 'It is merged and needed no more. Run rebase again to remove it.',
    });
  }
}
