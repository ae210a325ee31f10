import type { Journal } from '../../core/catalog.js';
import type { VmState } from '../../core/disk.js';
import { checkpointName, DEFINITION_FOLDER, domainJobId } from '../../core/names.js';
import { heldObstacle } from '../../core/obstacles.js';
import { messageOf, QmpBackupError } from '../../errors.js';
import { allOf, eachDisk } from '../../flow/all-of.js';
import { beginBackup } from '../../libvirt/backup.js';
import { heldByBlockJob } from '../../libvirt/block-jobs.js';
import type { NewCheckpoint } from '../../libvirt/checkpoint-xml.js';
import { inspectDomain } from '../../libvirt/domain.js';
import { DomainNotFound, isOutcomeUnknown, VirshError } from '../../libvirt/errors.js';
import { writeJournal } from '../../repository/journal-file.js';
import { makeScratch } from '../../repository/scratch.js';
import type { Staging } from '../../repository/staging.js';
import { monitorOfDomain, newJournal } from '../attempt/attempt-journal.js';
import { removeFilesOfFailed, setFailedAside } from '../attempt/failed-disks.js';
import { takeInstant } from '../attempt/instant.js';
import { sealPoint, type StagedImage } from '../attempt/seal-point.js';
import { stageImage } from '../attempt/stage-image.js';
import { undoAttempt } from '../attempt/undo-attempt.js';
import { watchScratch } from '../attempt/watch-scratch.js';
import type { Done } from '../backend.js';
import type { Planned } from '../backup-run.js';
import { LIBVIRT } from '../repair.js';
import { CopyGuestState } from './copy-guest-state.js';
import type { CopyMethod, DomainCopy, DomainRun } from './copy-method.js';
import { type DefinitionPlan, journalled, planDefinition, sealDefinition, takeDefinition } from './definition.js';
import { consistencyOfStarted, startFreezeGuard } from './freeze-domain.js';
import { repairDomain, resumeAfterIoError } from './repair.js';
import { blockJobCommand, vmStateOf } from './session.js';

/** Journal, staging, [freeze] backup-begin with its checkpoint [thaw], copy, seal with the end of the job. */
export async function attemptDomainPoint(
  run: DomainRun,
  planned: Planned,
  method: CopyMethod,
  staging: Staging,
  vm: VmState,
): Promise<Done> {
  const { options, context } = run;
  const { uuid } = run.session;
  run.signal.throwIfAborted();
  const copy = method.copyFor(run, planned);
  const guest = new CopyGuestState(run, copy, vm);
  const guard = await startFreezeGuard(run, vm);
  try {
    const checkpoint = checkpointOf(run, planned);
    const definition = await planDefinition(run.session, run.target, {
      now: context.now(),
      checkpoint: checkpoint?.name ?? null,
    });
    const journal = journalOf(run, planned, copy.folders, definition);
    await writeJournal(run.target, journal);
    const loading = copy.load();
    const staged = await stage(run, planned, staging);
    for (const folder of copy.folders) {
      await makeScratch(folder, run.session.domain.owner ?? undefined);
      await watchScratch(run, folder);
    }
    // What takes the time of this process must not hold up the thaw; without a freeze libvirt begins meanwhile.
    if (guard) await loading;
    run.signal.throwIfAborted();
    if (guard) await writeJournal(run.target, { ...journal, freezes: `${LIBVIRT}${uuid}` });
    guest.guardIt();
    let transactionMs = 0;
    const instant = await takeInstant(
      guard,
      {
        now: context.now,
        requireFreeze: options.quiesce === 'require',
        signal: run.signal,
        warn: run.warn,
        settle: (error) => Promise.resolve(error),
      },
      async () => {
        const begun = performance.now();
        await guest.begin(() => begin(run, checkpoint, copy, staged));
        transactionMs = performance.now() - begun;
      },
    );
    const takenDefinition = await takeDefinition(definition);
    await guard?.release();
    if (guard) await writeJournal(run.target, journal);
    const consistency = run.session.startedPaused ? await consistencyOfStarted(run) : instant.consistency;
    const taken = { ...instant, consistency, transactionMs, pausedMs: null };
    context.report({ kind: 'started', instant: taken });
    const { outcomes, failed } = await copy.finish(staged);
    const left = setFailedAside(run, planned, staged, failed);
    // Its bitmap is that of the checkpoint, which the others need.
    await removeFilesOfFailed(run, journal, planned, failed);
    context.report({ kind: 'sealing' });
    const of = { vm, instant: taken, outcomes };
    const sealed = await sealPoint(run, left.planned, staging, left.staged, of, async () => {
      const sealing = sealDefinition(run.session, staging, takenDefinition, run.warn);
      const [sealedDefinition] = await allOf([sealing, guest.endCopy()]);
      return sealedDefinition;
    });
    return { ...sealed, freeze: instant.freeze, pausedMs: null, transactionMs };
  } catch (error) {
    await guard?.release();
    await guest.free();
    throw await undone(run, vm, error, { thawed: !guard?.mayBeFrozen });
  }
}

function journalOf(run: DomainRun, { plan }: Planned, scratch: readonly string[], definition: DefinitionPlan): Journal {
  return {
    ...newJournal(run, monitorOfDomain(run.session.uuid)),
    disks: [
      ...plan.disks.map(({ disk, newBitmap, file }) => ({
        ...{ disk, bitmap: newBitmap?.name ?? null, file },
        job: domainJobId(run.attempt),
      })),
      ...journalled(definition, run.attempt),
    ],
    madeFolders: [...plan.disks.map(({ disk }) => disk), DEFINITION_FOLDER],
    scratch: [...scratch],
    ...(run.session.startedPaused ? { starts: run.session.uuid } : {}),
  };
}

/** Of the disks that will be tracked; null where there is none. */
function checkpointOf({ session, attempt }: DomainRun, { plan, targetId }: Planned): NewCheckpoint | null {
  const tracked = plan.disks.filter(({ newBitmap }) => newBitmap !== null).map(({ source }) => source.node);
  if (tracked.length === 0) return null;
  const others = session.domain.disks.map(({ target }) => target).filter((target) => !tracked.includes(target));
  return { name: checkpointName(targetId, attempt), disks: tracked, without: others };
}

function stage(run: DomainRun, { plan }: Planned, staging: Staging): Promise<readonly StagedImage[]> {
  const { options, signal } = run;
  return eachDisk(plan.disks, async (planned) => {
    const path = await stageImage(staging, planned, { compressionType: options.compress ? 'zstd' : null, signal });
    return { planned, path };
  });
}

/** The begin may have reached libvirt where its answer did not reach us; the undo looks. */
async function begin(
  { session: { virsh, uuid, domain } }: DomainRun,
  checkpoint: NewCheckpoint | null,
  copy: DomainCopy,
  staged: readonly StagedImage[],
): Promise<void> {
  try {
    await beginBackup(virsh, uuid, copy.backup(staged), checkpoint ?? undefined);
  } catch (error) {
    if (!(error instanceof VirshError)) throw error;
    const held = heldByBlockJob(error.words);
    // One that has begun since the domain was looked at.
    const advice =
      held === null
        ? copy.adviceFor(error.words)
        : heldObstacle({ type: 'a block job', virsh: blockJobCommand(domain, held) }).todo;
    throw new QmpBackupError('failed', `libvirt did not begin the backup: ${error.words}`, {
      cause: error,
      hint: `No point was made and no change is lost.${advice === null ? '' : ` ${advice}`}`,
    });
  }
}

async function undone(
  run: DomainRun,
  before: VmState,
  error: unknown,
  how: { readonly thawed: boolean },
): Promise<unknown> {
  const failure = await undoAttempt(run, error, how, async (target) => {
    const domain = await inspectDomain(run.session.virsh, run.session.uuid);
    const { report } = await repairDomain({ ...run.session, domain }, target, vmStateOf(domain));
    report.warnings.forEach(run.warn);
    // Also where somebody else has ended the job.
    if (before.running && domain.active) (await resumeAfterIoError(run.session)).forEach(run.warn);
  });
  if (isOutcomeUnknown(failure)) {
    return new QmpBackupError('failed', `libvirt was lost during the backup: ${messageOf(failure)}`, {
      cause: failure,
      hint: 'No point was made and no change is lost. Run it again when libvirt answers.',
    });
  }
  if (failure instanceof DomainNotFound) {
    // A transient domain.
    return new QmpBackupError('failed', `the domain ended during the backup, with its definition: ${failure.message}`, {
      cause: failure,
      hint: 'No point was made and no change is lost: the next run, when the domain is there again, tidies up and copies it all.',
    });
  }
  return failure;
}
