import type { BackupRun, Freeze, Planned } from '../../backends/backup-run.js';
import type { Copies, CopyAttempt, CopyMethod, StagedImage } from '../../backends/copy-method.js';
import type { Catalog } from '../../core/catalog.js';
import type { VmState } from '../../core/disk.js';
import type { FailedCopy } from '../../core/failed-copies.js';
import type { FleeceChoice } from '../../core/fleece-choice.js';
import { type BackupPlan, withoutFailed } from '../../core/plan.js';
import { wholeFileName } from '../../core/names.js';
import type { Point } from '../../core/point.js';
import { warning } from '../../core/warning.js';
import { messageOf } from '../../errors.js';
import { eachDisk } from '../../flow/all-of.js';
import { createImage } from '../../host/empty-image.js';
import { writeJournal } from '../../repository/journal-file.js';
import type { Staging } from '../../repository/staging.js';
import { readTarget } from '../../repository/target.js';
import { takeInstant } from './instant.js';
import { sealPoint } from './seal-point.js';

export interface Done {
  /** As it was carried out. */
  readonly plan: BackupPlan;
  /** The same with the disks that failed, where those still have the bitmaps that the instant gave them. */
  readonly begun: BackupPlan;
  readonly catalog: Catalog;
  readonly point: Point;
  readonly fleecing: FleeceChoice;
  readonly freeze: Freeze | null;
  readonly pausedMs: number | null;
  readonly transactionMs: number;
}

/**
 * One attempt at a point, whichever way its disks are copied: journal, staged images, guards, [freeze] instant [thaw],
 * copy, comparison, seal. A failure before the commit point drops the attempt's own traces.
 */
export async function attemptPoint(run: BackupRun, method: CopyMethod, staging: Staging, vm: VmState): Promise<Done> {
  run.signal.throwIfAborted();
  const copy = await method.start(run, vm);
  try {
    return await carryOut(run, copy, staging, vm);
  } catch (error) {
    throw copy.explain(await undone(run, copy, error));
  }
}

async function carryOut(run: BackupRun, copy: CopyAttempt, staging: Staging, vm: VmState): Promise<Done> {
  const { options, context, target } = run;
  const { atStake, planned } = copy;
  await writeJournal(target, copy.journal);
  const staged = await stageImages(copy, staging);
  await copy.prepare(staged);
  run.signal.throwIfAborted();
  if (atStake) await writeJournal(target, { ...copy.journal, ...atStake });
  const taken = await takeInstant(run, copy);
  const instant = { ...taken, consistency: await copy.begun(taken.consistency) };
  if (atStake) await writeJournal(target, copy.journal);
  context.report({ kind: 'started', instant });
  const { outcomes, failed } = await withDifferences(run, planned, staged, await copy.copy());
  const plan = planWithout(run, planned, failed);
  const images = staged.filter((image) => plan.disks.includes(image.planned));
  if (options.verify !== null) await copy.verify(images);
  context.report({ kind: 'sealing' });
  const sealed = await sealPoint(run, { ...planned, plan }, staging, images, { vm, instant, outcomes }, () =>
    copy.end(staging, failed),
  );
  const { freeze, pausedMs, transactionMs } = instant;
  const begun = copy.keepsBitmapsOfFailed ? planned.plan : plan;
  return { ...sealed, begun, fleecing: copy.fleecing, freeze, pausedMs, transactionMs };
}

/** The empty images, linked to their parents, which are not opened. */
function stageImages(
  { planned: { plan }, compressionType, qemuWrites }: CopyAttempt,
  staging: Staging,
): Promise<readonly StagedImage[]> {
  return eachDisk(plan.disks, async (planned) => {
    const { disk, file, source, parent } = planned;
    await staging.makeDiskFolder(disk);
    const path = await staging.reserve(disk, file);
    const empty = {
      size: source.virtualSize,
      backing: parent?.file,
      compressionType: compressionType ?? undefined,
    };
    await createImage(path, empty);
    const whole = qemuWrites && planned.compares ? await staging.reserve(disk, wholeFileName(file)) : null;
    if (whole !== null) await createImage(whole, { size: source.virtualSize });
    return { planned, path, whole, empty };
  });
}

/** Most backups compare nothing, and then nothing of that is loaded (docs/decisions/0001). */
async function withDifferences(
  run: BackupRun,
  planned: Planned,
  staged: readonly StagedImage[],
  copies: Copies,
): Promise<Copies> {
  if (staged.every(({ whole }) => whole === null)) return copies;
  const { storeDifferences } = await import('../../backends/methods/store-differences.js');
  return storeDifferences(run, planned, staged, copies);
}

/** What is left of the plan when the disks are set aside whose copies have failed. Says so, and changes nothing. */
function planWithout(
  { attempt, warn }: BackupRun,
  { plan, catalog }: Planned,
  failed: readonly FailedCopy[],
): Planned['plan'] {
  if (failed.length === 0) return plan;
  const left = withoutFailed(plan, failed, { catalog, attempt });
  left.remarks.slice(plan.remarks.length).forEach(({ code, text }) => warn({ code, text }));
  return left;
}

/**
 * The undo of a failed attempt is the repair that the next run would make; where it cannot be made now, that one does it
 * by the journal. Resolves to what the run has failed with.
 */
async function undone(run: BackupRun, copy: CopyAttempt, error: unknown): Promise<unknown> {
  const { failure, thawed } = await copy.giveUp(error);
  // What hangs cannot be undone; and QEMU would hang too if it were asked for the nodes of a target that hangs.
  if (run.watch.givenUp.aborted) return run.watch.givenUp.reason;
  try {
    const target = await readTarget(run.target, run.options.monthly);
    // A guest that somebody else has frozen since stays so.
    const journal = target.journal && thawed ? { ...target.journal, freezes: null } : target.journal;
    (await copy.undo({ ...target, journal })).forEach(run.warn);
  } catch (undoing) {
    run.warn(
      warning(
        'left-behind',
        `the run could not be undone now (${messageOf(undoing)}); the next run does it by the journal`,
      ),
    );
  }
  return failure;
}
