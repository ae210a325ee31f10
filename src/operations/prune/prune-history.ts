import { join } from 'node:path';
import { consolidatePoints, goingFiles } from '../../consolidation/consolidate-points.js';
import { planMerges } from '../../consolidation/plan-merges.js';
import { refuseHalfMerged } from '../../consolidation/refuse-half-merged.js';
import { type MergeLine, moreThanBefore } from '../../core/consolidation.js';
import { nameIn } from '../../core/point-name.js';
import type { Point } from '../../core/point.js';
import { bytesOfPoint } from '../../core/point-space.js';
import { type HistoryPoint, keepUnmergeable, onlyAsNeeded, retain, type PointVerdict } from '../../core/retention.js';
import { withoutPoints } from '../../core/retire-points.js';
import { trackedPoints } from '../../core/tracked-points.js';
import { QmpBackupError } from '../../errors.js';
import type { Unwind } from '../../flow/unwind.js';
import { toolName } from '../../host/package-version.js';
import { requireCatalog } from '../../repository/catalog-file.js';
import { lockForReading } from '../../repository/disk-folder.js';
import type { History } from '../../repository/histories.js';
import { lockTarget } from '../../repository/lock.js';
import { lockToRemove } from '../../repository/making-room.js';
import { refuseOpenFiles } from '../../repository/open-mark.js';
import { openEveryPoint, type PointState } from '../../repository/open-point.js';
import { commitRetirement, removeRetiredFiles } from '../../repository/retired-files.js';
import { dropEmptyMonths } from './empty-months.js';
import type { LockedTarget, PrunedHistory, PrunedPoint, PruneRun } from './request.js';

/** All months of one VM, under the locks of all. */
export async function pruneHistory(history: History, given: PruneRun, unwind: Unwind): Promise<PrunedHistory> {
  const { dryRun } = given.options;
  const { targets, run } = await lockAll(history, given, unwind);
  const removed: string[] = [];
  const tidyUp = async (): Promise<void> => {
    for (const each of dryRun ? [] : targets) {
      const tidied = await removeRetiredFiles(each.target, each.catalog);
      each.catalog = tidied.catalog;
      removed.push(...tidied.removed.map((file) => join(each.target, file)));
    }
  };
  for (const { catalog } of targets) refuseHalfMerged(catalog);
  await tidyUp();
  const { verdicts, merges } = await decide(targets, run);
  const points = pointsOf(verdicts, merges);
  const dropped = verdicts.filter(({ reasons }) => reasons.length === 0);
  const changes = await plannedChanges(targets, dropped, merges, run);
  let freed = dropped.reduce((sum, { point }) => sum + bytesOfPoint(point), 0);
  if (!dryRun) {
    for (const change of changes) freed -= await carryOut(change, run);
    await tidyUp().catch((error: unknown) => {
      throw changes.length === 0 ? error : filesStay(error);
    });
    await dropEmptyMonths(targets);
  }
  return {
    ...{ vm: history.vm, targets: history.targets.map(({ target }) => target) },
    ...{ points, removed, freed: Math.max(0, freed), missing: null, failed: null },
  };
}

/** The points are gone all the same. */
function filesStay(error: unknown): unknown {
  if (!(error instanceof QmpBackupError) || error.code === 'interrupted') return error;
  return new QmpBackupError('failed', `the points are dropped, and files of theirs are still there: ${error.message}`, {
    hint: `${error.hint ?? ''} The next prune or backup removes what is left.`.trimStart(),
    cause: error,
  });
}

async function lockAll(
  { targets }: History,
  given: PruneRun,
  unwind: Unwind,
): Promise<{ readonly targets: readonly LockedTarget[]; readonly run: PruneRun }> {
  const { breakLock, dryRun } = given.options;
  const locked: LockedTarget[] = [];
  const signals = [given.signal];
  for (const { target } of targets) {
    const locking = { breakLock, purpose: `prune of ${target}` };
    const lock = dryRun
      ? await lockForReading(lockTarget, target, locking, given.warn)
      : await lockToRemove(target, locking);
    const release = async (): Promise<void> => lock?.release();
    unwind.defer(release);
    if (lock) signals.push(lock.signal);
    // A backup may have been made since it was looked for.
    locked.push({ target, catalog: await requireCatalog(target), release });
  }
  return { targets: locked, run: { ...given, signal: AbortSignal.any(signals) } };
}

interface Decided {
  readonly verdicts: readonly PointVerdict[];
  /** What has to be merged so that the dropped points can go, by target. */
  readonly merges: ReadonlyMap<string, readonly MergeLine[]>;
}

async function decide(targets: readonly LockedTarget[], run: PruneRun): Promise<Decided> {
  const { options, space } = run;
  const history: HistoryPoint[] = [];
  for (const each of targets) {
    // Nothing builds on an older month.
    const tracked = each === targets.at(-1) ? trackedPoints(each.catalog) : [];
    const contents = await openEveryPoint(each.target, each.catalog);
    history.push(...contents.map((content) => inHistory(each.target, content, tracked)));
  }
  const verdicts = retain(history, { ...options, now: run.now().getTime() });
  if (options.consolidate) return decideMerges(targets, verdicts);
  const merges = new Map<string, readonly MergeLine[]>();
  if (options.keepFree === null) return { verdicts, merges };
  const free = await space.free(targets.map(({ target }) => target));
  return { verdicts: onlyAsNeeded(verdicts, Math.max(0, options.keepFree - free)), merges };
}

/** What cannot be merged stays, and so others may have to: each round keeps one point more, or is the last. */
async function decideMerges(targets: readonly LockedTarget[], first: readonly PointVerdict[]): Promise<Decided> {
  for (let verdicts = first; ;) {
    const merges = new Map<string, readonly MergeLine[]>();
    const unmergeable: { target: string; point: string; why: string }[] = [];
    for (const { target, catalog } of targets) {
      const plan = await planMerges(target, catalog, droppedIn(target, verdicts));
      merges.set(target, plan.lines);
      unmergeable.push(...plan.unmergeable.map(({ point, why }) => ({ target, point, why })));
      const here = verdicts.filter((each) => each.target === target);
      const good = new Map(here.map((each) => [each.point.id, each.good]));
      // Nothing is made of what is damaged.
      const bad = takersOf(plan.lines.filter(({ disk, point }) => good.get(point)?.has(disk) === false));
      for (const { point } of here)
        if (takenOverBy(point, bad).length > 0)
          unmergeable.push({ target, point: point.id, why: 'what builds on it is damaged' });
    }
    if (unmergeable.length === 0) return { verdicts, merges };
    verdicts = keepUnmergeable(verdicts, unmergeable);
  }
}

function droppedIn(target: string, verdicts: readonly PointVerdict[]): ReadonlySet<string> {
  const dropped = verdicts.filter((each) => each.target === target && each.reasons.length === 0);
  return new Set(dropped.map(({ point }) => point.id));
}

function inHistory(
  target: string,
  { point, disks, findings }: PointState,
  tracked: ReturnType<typeof trackedPoints>,
): HistoryPoint {
  const isGood = (each: PointState['disks'][number]): boolean => each.findings.every(({ level }) => level !== 'error');
  const fault = findings.find(({ level }) => level === 'error');
  const good = new Set(disks.filter(isGood).map(({ disk }) => disk));
  return {
    ...{ target, point, good },
    fault: fault ? `${fault.subject}/${fault.file ?? ''}: ${fault.why}` : null,
    tracked: tracked.some(({ id, disk }) => id === point.id && good.has(disk)),
  };
}

/** What is done in one target. */
interface Change {
  readonly each: LockedTarget;
  readonly dropped: ReadonlySet<string>;
  readonly lines: readonly MergeLine[];
}

/** Refuses where somebody has a file open that would go, before the first target changes. */
async function plannedChanges(
  targets: readonly LockedTarget[],
  verdicts: readonly PointVerdict[],
  merges: ReadonlyMap<string, readonly MergeLine[]>,
  { options }: PruneRun,
): Promise<readonly Change[]> {
  const changes = targets.flatMap((each): Change[] => {
    const dropped = droppedIn(each.target, verdicts);
    return dropped.size === 0 ? [] : [{ each, dropped, lines: merges.get(each.target) ?? [] }];
  });
  for (const { each, dropped, lines } of changes) {
    await refuseOpenFiles(each.target, goingFiles({ catalog: each.catalog, dropped, lines }), options);
  }
  return changes;
}

/** @returns bytes that new files take more than those whose place they took */
async function carryOut({ each, dropped, lines }: Change, run: PruneRun): Promise<number> {
  const { target, catalog } = each;
  run.signal.throwIfAborted();
  if (lines.length === 0) {
    each.catalog = { ...withoutPoints(catalog, dropped), tool: toolName() };
    await commitRetirement(target, each.catalog);
    return 0;
  }
  const { catalog: next, made } = await consolidatePoints({ target, catalog, dropped, lines }, run);
  each.catalog = next;
  return moreThanBefore(made);
}

function pointsOf(
  verdicts: readonly PointVerdict[],
  merges: ReadonlyMap<string, readonly MergeLine[]>,
): readonly PrunedPoint[] {
  const all = verdicts.map(({ point }) => point);
  const takers = new Map([...merges].map(([target, lines]) => [target, takersOf(lines)]));
  return verdicts.map(({ target, point, reasons }) => {
    const mergedInto = reasons.length > 0 ? [] : takenOverBy(point, takers.get(target) ?? new Map());
    return { target, point, name: nameIn(point, all), reasons, mergedInto, bytes: bytesOfPoint(point) };
  });
}

/** Ids of the points that take over the data of files, by `<disk>/<file>`. */
function takersOf(lines: readonly MergeLine[]): ReadonlyMap<string, string> {
  return new Map(
    lines.flatMap(({ disk, files, point }) =>
      files.slice(0, -1).map(({ file }) => [`${disk}/${file}`, point] as const),
    ),
  );
}

function takenOverBy({ disks }: Point, takers: ReadonlyMap<string, string>): readonly string[] {
  const own = disks.filter(({ state }) => state !== 'merged');
  return [...new Set(own.flatMap(({ disk, file }) => takers.get(`${disk}/${file}`) ?? []))];
}
