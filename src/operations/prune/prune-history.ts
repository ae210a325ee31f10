import { join } from 'node:path';
import type { Catalog } from '../../core/catalog.js';
import { nameIn } from '../../core/point-name.js';
import { bytesOfPoint, type HistoryPoint, onlyAsNeeded, retain, type PointVerdict } from '../../core/retention.js';
import { withoutPoints } from '../../core/retire-points.js';
import { trackedPoints } from '../../core/tracked-points.js';
import { QmpBackupError } from '../../errors.js';
import type { Unwind } from '../../flow/unwind.js';
import { ANSWER_MS, freeSpace } from '../../host/free-space.js';
import { toolName } from '../../host/package-version.js';
import { requireCatalog } from '../../repository/catalog-file.js';
import { lockForReading } from '../../repository/disk-folder.js';
import type { History } from '../../repository/histories.js';
import { lockTarget } from '../../repository/lock.js';
import { refuseOpenFiles } from '../../repository/open-mark.js';
import { openEveryPoint, type PointContent } from '../../repository/open-point.js';
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
  const verdicts = await decide(targets, run);
  const points = pointsOf(verdicts);
  const dropped = verdicts.filter(({ reasons }) => reasons.length === 0);
  const before = await plannedRetirements(targets, dropped, run);
  if (!dryRun) {
    for (const { each, next } of before) {
      run.signal.throwIfAborted();
      await commitRetirement(each.target, next);
      each.catalog = next;
    }
    await tidyUp();
    await dropEmptyMonths(targets);
  }
  const freed = dropped.reduce((sum, { point }) => sum + bytesOfPoint(point), 0);
  const missing = await missingSpace(targets, run, dryRun ? freed : 0);
  return {
    ...{ vm: history.vm, targets: history.targets.map(({ target }) => target) },
    ...{ points, removed, freed, missing, failed: null },
  };
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
      : await lockTarget(target, locking);
    const release = async (): Promise<void> => lock?.release();
    unwind.defer(release);
    if (lock) signals.push(lock.signal);
    // A backup may have been made since it was looked for.
    locked.push({ target, catalog: await requireCatalog(target), release });
  }
  return { targets: locked, run: { ...given, signal: AbortSignal.any(signals) } };
}

/** Which of its files are needed is known when it is finished. */
function refuseHalfMerged({ points }: Catalog): void {
  const merging = points.flatMap(({ disks }) => disks).find(({ state }) => state === 'merging');
  if (!merging) return;
  throw new QmpBackupError('unsafe', `a rebase of ${merging.disk} was interrupted, and has to be finished first`, {
    hint: `Finish it: qmpbackup rebase --target DIR --disk ${merging.disk}`,
  });
}

async function decide(targets: readonly LockedTarget[], run: PruneRun): Promise<readonly PointVerdict[]> {
  const { options } = run;
  const history: HistoryPoint[] = [];
  for (const each of targets) {
    // Nothing builds on an older month.
    const tracked = each === targets.at(-1) ? trackedPoints(each.catalog) : [];
    const contents = await openEveryPoint(each.target, each.catalog);
    history.push(...contents.map((content) => inHistory(each.target, content, tracked)));
  }
  const verdicts = retain(history, { ...options, now: run.now().getTime() });
  if (options.keepFree === null) return verdicts;
  return onlyAsNeeded(verdicts, Math.max(0, options.keepFree - (await freeOf(targets, run))));
}

function inHistory(
  target: string,
  { point, disks, findings }: PointContent,
  tracked: ReturnType<typeof trackedPoints>,
): HistoryPoint {
  const isGood = (each: PointContent['disks'][number]): boolean =>
    each.findings.every(({ level }) => level !== 'error');
  const fault = findings.find(({ level }) => level === 'error');
  const good = new Set(disks.filter(isGood).map(({ disk }) => disk));
  return {
    ...{ target, point, good },
    fault: fault ? `${fault.subject}/${fault.file ?? ''}: ${fault.why}` : null,
    tracked: tracked.some(({ id, disk }) => id === point.id && good.has(disk)),
  };
}

async function freeOf(targets: readonly LockedTarget[], { signal }: PruneRun): Promise<number> {
  const { free } = await freeSpace(targets.at(-1)?.target ?? '/', { timeoutMs: ANSWER_MS, signal });
  return free;
}

/** `promised`: what a dry run would have freed. */
async function missingSpace(targets: readonly LockedTarget[], run: PruneRun, promised: number): Promise<number | null> {
  const { keepFree } = run.options;
  if (keepFree === null) return null;
  const missing = keepFree - (await freeOf(targets, run)) - promised;
  return missing > 0 ? missing : null;
}

/** The catalogs without what is dropped; refuses where somebody has a file of that open, before the first of them changes. */
async function plannedRetirements(
  targets: readonly LockedTarget[],
  dropped: readonly PointVerdict[],
  { options }: PruneRun,
): Promise<readonly { readonly each: LockedTarget; readonly next: Catalog }[]> {
  const planned = targets.flatMap((each) => {
    const ids = new Set(dropped.filter(({ target }) => target === each.target).map(({ point }) => point.id));
    return ids.size === 0 ? [] : [{ each, next: { ...withoutPoints(each.catalog, ids), tool: toolName() } }];
  });
  for (const { each, next } of planned) {
    const files = (next.retiredFiles ?? []).map(({ folder, file }) => `${folder}/${file}`);
    await refuseOpenFiles(each.target, files, options);
  }
  return planned;
}

function pointsOf(verdicts: readonly PointVerdict[]): readonly PrunedPoint[] {
  const all = verdicts.map(({ point }) => point);
  return verdicts.map(({ target, point, reasons }) => {
    return { target, point, name: nameIn(point, all), reasons, bytes: bytesOfPoint(point) };
  });
}
