import { join, resolve } from 'node:path';
import { contextOf, type VerbContext, type WarningEvent } from '../../backends/verb-context.js';
import {
  type ConsolidationEvent,
  type ConsolidationRun,
  consolidatePoints,
  goingFiles,
} from '../../consolidation/consolidate-points.js';
import { planMerges } from '../../consolidation/plan-merges.js';
import { refuseHalfMerged } from '../../consolidation/refuse-half-merged.js';
import type { Catalog } from '../../core/catalog.js';
import { pointsOfChain } from '../../core/chain.js';
import { type MergeLine, moreThanBefore } from '../../core/consolidation.js';
import type { VmIdentity } from '../../core/identity.js';
import { nameIn, pointNamed } from '../../core/point-name.js';
import type { Point } from '../../core/point.js';
import { bytesOfPoint } from '../../core/point-space.js';
import type { Warn } from '../../core/warning.js';
import { QmpBackupError } from '../../errors.js';
import { unwinding, type Unwind } from '../../flow/unwind.js';
import { requireCatalog } from '../../repository/catalog-file.js';
import { lockForReading } from '../../repository/disk-folder.js';
import { eachHistory, type History, throughHistories } from '../../repository/histories.js';
import { lockTarget } from '../../repository/lock.js';
import { lockToRemove } from '../../repository/making-room.js';
import { refuseOpenFiles } from '../../repository/open-mark.js';
import { removeRetiredFiles } from '../../repository/retired-files.js';
import { vmFolder } from '../../repository/vm-folder.js';
import { type ConsolidateOptions, consolidateOptions, type ConsolidateRequest } from './options.js';

/** A synthetic full: the oldest points of a chain are merged into the next one, which needs no other from then on. */
export type ConsolidateEvent = WarningEvent | ConsolidationEvent;

export type ConsolidateContext = VerbContext<ConsolidateEvent>;

export interface ConsolidateResult {
  readonly chains: readonly ConsolidatedChain[];
  readonly dryRun: boolean;
}

/** The chain of one VM. */
export interface ConsolidatedChain {
  readonly vm: VmIdentity;
  readonly target: string;
  /** The point that becomes the FULL; null where there was nothing to merge. */
  readonly head: ConsolidatedPoint | null;
  /** What went into it, oldest first. */
  readonly merged: readonly ConsolidatedPoint[];
  /** New files, each with those that it was made of, oldest first; of a dry run without a name. */
  readonly files: readonly NewFile[];
  /** Files that were removed, absolute; also those that a run which was killed had left. */
  readonly removed: readonly string[];
  /** Bytes that old files took and new ones do not; of a dry run the most that it can be. */
  readonly freed: number;
  /** Why it was left as it is while others were not; null where it was not. */
  readonly failed: QmpBackupError | null;
}

export interface ConsolidatedPoint {
  readonly point: Point;
  /** In words. */
  readonly name: string;
}

export interface NewFile {
  readonly disk: string;
  readonly file: string | null;
  readonly from: readonly string[];
}

/**
 * Any step may be the last of a run that is killed: what the catalog names can be restored, and the next run (of this, `prune`, a
 * backup, or `verify --repair`) removes the rest.
 *
 * @throws QmpBackupError `usage`, `no-catalog`; of a single VM `locked`, also where somebody has a file open that would go,
 * `unsafe` for what cannot be merged, and `damaged`
 */
export async function consolidate(
  request: ConsolidateRequest,
  given: Partial<ConsolidateContext> = {},
): Promise<ConsolidateResult> {
  const [options, context] = [consolidateOptions(request), contextOf(given)];
  const { signal, now, report } = context;
  signal.throwIfAborted();
  const root = resolve(options.target);
  const found = await eachHistory(options.label === null ? root : await vmFolder(root, options.label));
  if ('until' in options.head && !found.alone) {
    const vms = found.histories.length + found.strays.length;
    throw new QmpBackupError('usage', `${root} has backups of ${vms} VMs, and a point is of one`, {
      hint: 'Give the folder of one, or --monthly with --vm-name: see qmpbackup list --target DIR',
    });
  }
  const warn: Warn = (said) => report({ kind: 'warning', ...said });
  const run: Run = { options, signal, now, warn, onEvent: report };
  const chains = await throughHistories(found, signal, {
    left: leftAsItIs,
    work: (history) => unwinding((unwind) => consolidateHistory(history, run, unwind)),
  });
  return { chains, dryRun: options.dryRun };
}

interface Run extends ConsolidationRun {
  readonly options: ConsolidateOptions;
}

function leftAsItIs(vm: VmIdentity, targets: readonly string[], failed: QmpBackupError): ConsolidatedChain {
  const target = targets.at(-1) ?? '';
  return { vm, target, head: null, merged: [], files: [], removed: [], freed: 0, failed };
}

async function consolidateHistory(history: History, given: Run, unwind: Unwind): Promise<ConsolidatedChain> {
  const { options } = given;
  const { breakLock, dryRun } = options;
  const { target, id } = headOf(history, options);
  const locking = { breakLock, purpose: `consolidation of ${target}` };
  const lock = dryRun
    ? await lockForReading(lockTarget, target, locking, given.warn)
    : await lockToRemove(target, locking);
  if (lock) unwind.defer(() => lock.release());
  const run: Run = { ...given, signal: lock ? AbortSignal.any([given.signal, lock.signal]) : given.signal };

  // A backup may have been made since it was looked for.
  const start = await requireCatalog(target);
  refuseHalfMerged(start);
  const earlier = dryRun ? { catalog: start, removed: [] } : await removeRetiredFiles(target, start);
  const { catalog } = earlier;
  const removed = earlier.removed.map((file) => join(target, file));
  const head = id === null ? null : pointNamed(catalog.points, id);
  const merged = head ? olderThan(catalog, head) : [];
  const named = (point: Point): ConsolidatedPoint => ({ point, name: nameIn(point, catalog.points) });
  const about = { vm: history.vm, target, merged: merged.map(named), failed: null };
  if (!head || merged.length === 0) return { ...about, head: null, files: [], removed, freed: 0 };

  refusePinned(merged.map(named));
  if (!options.allowRemoveAll) refuseLastOfDisk(catalog, merged);
  const dropped = new Set(merged.map((point) => point.id));
  const { lines, unmergeable } = await planMerges(target, catalog, dropped);
  const [first] = unmergeable;
  if (first) throw notMergeable(first);
  await refuseOpenFiles(target, goingFiles({ catalog, dropped, lines }), options);
  const before = merged.reduce((sum, point) => sum + bytesOfPoint(point), 0);
  if (dryRun) {
    const files = lines.map((line) => ({ disk: line.disk, file: null, from: namesOf(line) }));
    return { ...about, head: named(head), files, removed, freed: before };
  }
  const { catalog: next, made } = await consolidatePoints({ target, catalog, dropped, lines }, run);
  const tidied = await removeRetiredFiles(target, next);
  return {
    ...about,
    head: named(head),
    files: made.map(({ line, file }) => ({ disk: line.disk, file, from: namesOf(line) })),
    removed: [...removed, ...tidied.removed.map((file) => join(target, file))],
    freed: Math.max(0, before - moreThanBefore(made)),
  };
}

function namesOf({ files }: MergeLine): readonly string[] {
  return files.map(({ file }) => file);
}

/** The target, and the point that becomes the FULL; null where there are no more points than are to remain. */
function headOf(
  { targets }: History,
  { head }: ConsolidateOptions,
): { readonly target: string; readonly id: string | null } {
  const all = targets.flatMap(({ catalog }) => catalog.points);
  if ('until' in head) {
    const point = pointNamed(all, head.until);
    const of = targets.find(({ catalog }) => catalog.points.includes(point));
    if (!of) throw new QmpBackupError('failed', `nobody has the point ${point.id}`);
    if (point.chain !== null) return { target: of.target, id: point.id };
    throw new QmpBackupError('usage', `${nameIn(point, all)} is in no chain: it needs no other point`, {
      hint: 'Name a point of a chain: see qmpbackup list --target DIR',
    });
  }
  const newest = all.findLast(({ chain }) => chain !== null);
  const of = targets.findLast(({ catalog }) => newest && catalog.points.includes(newest)) ?? targets.at(-1);
  const points = of && newest?.chain ? pointsOfChain(of.catalog, newest.chain) : [];
  return { target: of?.target ?? '', id: points.at(-head.keep)?.id ?? null };
}

function olderThan(catalog: Catalog, { chain, id }: Point): readonly Point[] {
  const points = chain === null ? [] : pointsOfChain(catalog, chain);
  return points.slice(
    0,
    points.findIndex((each) => each.id === id),
  );
}

function refusePinned(points: readonly ConsolidatedPoint[]): void {
  const pinned = points.find(({ point }) => point.pinned);
  if (!pinned) return;
  const note = pinned.point.note === undefined ? '' : ` (${pinned.point.note})`;
  throw new QmpBackupError('unsafe', `${pinned.name} is pinned${note}, and the merge would take its state`, {
    hint: 'Merge up to an older point with --until, or take the pin away: qmpbackup unpin',
  });
}

/** A disk that the VM has lost is nowhere else. */
function refuseLastOfDisk(catalog: Catalog, merged: readonly Point[]): void {
  const disksOf = (points: readonly Point[]): ReadonlySet<string> =>
    new Set(points.flatMap(({ disks }) => disks.flatMap(({ disk, state }) => (state === 'merged' ? [] : [disk]))));
  const left = disksOf(catalog.points.filter((point) => !merged.includes(point)));
  const lost = [...disksOf(merged)].find((disk) => !left.has(disk));
  if (lost === undefined) return;
  throw new QmpBackupError('unsafe', `no later point has the disk ${lost}, whose last state the merge would take`, {
    hint: 'Pin a point that has it and merge up to that one, or let it go with --allow-remove-all.',
  });
}

function notMergeable({ disk, file, why }: { disk: string; file: string; why: string }): QmpBackupError {
  return new QmpBackupError('unsafe', `${disk}/${file} cannot be merged into the point after it: ${why}`, {
    hint: 'Nothing was changed. Merge up to an older point with --until, or begin a new chain: backup --level full',
  });
}
