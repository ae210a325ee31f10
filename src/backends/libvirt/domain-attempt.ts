import type { VmState } from '../../core/disk.js';
import type { FailedCopy } from '../../core/failed-copies.js';
import type { FleeceChoice } from '../../core/fleece-choice.js';
import type { Journal } from '../../core/journal.js';
import { checkpointName, DEFINITION_FOLDER, domainJobId } from '../../core/names.js';
import { heldObstacle } from '../../core/obstacles.js';
import { isOverlayOf } from '../../core/overlay-names.js';
import type { Consistency } from '../../core/point.js';
import type { Warning } from '../../core/warning.js';
import { messageOf, QmpBackupError } from '../../errors.js';
import { allOf } from '../../flow/all-of.js';
import type { DomainFreezeGuard } from '../../guards/domain-freeze-guard.js';
import { heldByBlockJob } from '../../libvirt/block-jobs.js';
import type { NewCheckpoint } from '../../libvirt/checkpoint-xml.js';
import { DomainNotFound, isOutcomeUnknown, VirshError } from '../../libvirt/errors.js';
import { makeScratch } from '../../repository/scratch.js';
import type { Staging } from '../../repository/staging.js';
import type { TargetState } from '../../repository/target.js';
import type { Planned } from '../backup-run.js';
import type { Begun, Copies, CopyAttempt, CopyMethod, Ended, GivenUp, StagedImage } from '../copy-method.js';
import { newJournal } from '../methods/attempt-journal.js';
import { removeFilesOfFailed } from '../methods/failed-disks.js';
import { type LeftByDeadRun, leftByDeadRun, retiring } from '../methods/left-by-dead-run.js';
import { wholeCopies } from '../methods/whole-copies.js';
import { watchScratch } from '../methods/watch-scratch.js';
import { CopyGuestState } from './copy-guest-state.js';
import {
  type DefinitionPlan,
  journalled,
  planDefinition,
  sealDefinition,
  takeDefinition,
  type TakenDefinition,
} from './definition.js';
import type { DomainCopy, DomainMethod, DomainRun } from './domain-method.js';
import { consistencyOfStarted, startFreezeGuard } from './freeze-domain.js';
import { repairDomain, resumeAfterIoError } from './repair.js';
import { type BackupSession, blockJobCommand, lookAgain, vmStateOf } from './session.js';

/** A checkpoint and a backup in one call of libvirt; who writes the images is the method's. */
export function domainCopy(session: BackupSession, found: Planned, method: DomainMethod): CopyMethod {
  return {
    fleecing: method.fleecing,
    start: async (running, vm) => {
      const run = { ...running, session };
      const left = await leftByDeadRun(run, found.catalog);
      const planned = retiring(run, found, left);
      const copy = method.copyFor(run, planned);
      const checkpoint = method.tracks === 'checkpoint' ? checkpointOf(run, planned) : null;
      const definition = await planDefinition(
        session,
        { target: run.target, catalog: found.catalog },
        {
          now: run.context.now(),
          checkpoint: checkpoint?.name ?? null,
        },
      );
      const guard = await startFreezeGuard(run, vm);
      const { fleecing, qemuWrites } = method;
      const parts = { copy, checkpoint, definition, guard, left, fleecing, qemuWrites };
      return new DomainAttempt(run, planned, parts, vm);
    },
  };
}

interface Parts {
  readonly copy: DomainCopy;
  readonly checkpoint: NewCheckpoint | null;
  readonly definition: DefinitionPlan;
  readonly guard: DomainFreezeGuard | null;
  readonly left: LeftByDeadRun;
  readonly fleecing: FleeceChoice;
  readonly qemuWrites: boolean;
}

class DomainAttempt implements CopyAttempt {
  readonly planned: Planned;
  readonly fleecing: FleeceChoice;
  journal: Journal;
  readonly atStake: CopyAttempt['atStake'];
  readonly freezer: DomainFreezeGuard | null;
  /** Of a checkpoint, which the others may need: whether they do is known when they are sealed. */
  readonly keepsBitmapsOfFailed = true;
  readonly qemuWrites: boolean;
  readonly compressionType: 'zstd' | null;
  readonly #run: DomainRun;
  readonly #copy: DomainCopy;
  readonly #checkpoint: NewCheckpoint | null;
  readonly #definition: DefinitionPlan;
  readonly #guest: CopyGuestState;
  readonly #ranBefore: boolean;
  #staged: readonly StagedImage[] = [];
  #taken: TakenDefinition | null = null;

  constructor(run: DomainRun, planned: Planned, parts: Parts, vm: VmState) {
    const { copy, checkpoint, definition, guard, fleecing, qemuWrites } = parts;
    this.planned = planned;
    this.fleecing = fleecing;
    this.qemuWrites = qemuWrites;
    this.journal = journalOf(run, planned, parts);
    this.atStake = guard && { freezes: { kind: 'domain', uuid: run.session.uuid }, stops: false };
    this.freezer = guard;
    this.compressionType = run.options.compress ? 'zstd' : null;
    this.#run = run;
    this.#copy = copy;
    this.#checkpoint = checkpoint;
    this.#definition = definition;
    this.#guest = new CopyGuestState(run, copy, vm);
    this.#ranBefore = vm.running;
  }

  async prepare(staged: readonly StagedImage[]): Promise<void> {
    this.#staged = staged;
    for (const folder of this.#copy.folders) {
      await makeScratch(folder, this.#run.session.domain.owner ?? undefined);
      await watchScratch(this.#run, folder);
    }
    for (const folder of this.#copy.places ?? []) await watchScratch(this.#run, folder);
    await this.#copy.ready?.();
    this.#run.signal.throwIfAborted();
    this.#guest.guardIt();
  }

  async begin(): Promise<Begun> {
    const begun = performance.now();
    await this.#guest.begin(() => begin(this.#run, this.#checkpoint, this.#copy, this.#staged));
    return { transactionMs: performance.now() - begun, pausedMs: null };
  }

  async begun(taken: Consistency): Promise<Consistency> {
    this.#taken = await takeDefinition(this.#definition);
    await this.freezer?.release();
    return this.#run.session.startedPaused ? consistencyOfStarted(this.#run) : taken;
  }

  copy(): Promise<Copies> {
    return this.#copy.finish(this.#staged);
  }

  verify(images: readonly StagedImage[]): Promise<void> {
    return this.#copy.verify(images);
  }

  async end(staging: Staging, failed: readonly FailedCopy[]): Promise<Ended> {
    const { session, warn } = this.#run;
    await removeFilesOfFailed(this.#run, this.journal, this.planned, failed);
    const sealing = this.#taken && sealDefinition(session, staging, this.#taken, warn);
    const [definition] = await allOf([sealing, this.#guest.endCopy()]);
    return { definition, hardware: null, stuck: [] };
  }

  async giveUp(failure: unknown): Promise<GivenUp> {
    await this.freezer?.release();
    await this.#guest.free();
    return { failure, thawed: !this.freezer?.mayBeFrozen };
  }

  async undo(target: TargetState): Promise<readonly Warning[]> {
    const session = await lookAgain(this.#run.session);
    const { report } = await repairDomain(session, target, vmStateOf(session.domain));
    // Also where somebody else has ended the job.
    const resumed = this.#ranBefore && session.domain.active ? await resumeAfterIoError(session) : [];
    return [...report.warnings, ...resumed];
  }

  explain(failure: unknown): unknown {
    return inWords(failure);
  }
}

function journalOf(run: DomainRun, planned: Planned, { copy, definition, left, qemuWrites }: Parts): Journal {
  const { plan } = planned;
  const whole = qemuWrites ? wholeCopies(plan, run) : { disks: [], scratch: [] };
  return {
    ...newJournal(run, { kind: 'domain', uuid: run.session.uuid }),
    disks: [
      ...plan.disks.map(({ disk, newBitmap, file }) => ({
        ...{ disk, bitmap: newBitmap?.name ?? null, file },
        job: domainJobId(run.attempt),
      })),
      ...whole.disks.map((each) => ({ ...each, job: domainJobId(run.attempt) })),
      ...journalled(definition, run.attempt),
      ...left.disks,
    ],
    madeFolders: [...plan.disks.map(({ disk }) => disk), DEFINITION_FOLDER],
    scratch: [...copy.folders, ...whole.scratch],
    ...overlaysOf(copy, planned),
    ...(run.session.startedPaused ? { starts: run.session.uuid } : {}),
  };
}

/** Those that the run makes, and those that it may merge down once its point is sealed: they are above a disk already. */
function overlaysOf({ overlays: made = [] }: DomainCopy, { plan, targetId }: Planned): Pick<Journal, 'overlays'> {
  const there = plan.disks.flatMap(({ source: { address: target, overlays = [] } }) =>
    overlays.filter(({ name }) => isOverlayOf(targetId, name)).map(({ path }) => ({ target, path })),
  );
  return made.length + there.length > 0 ? { overlays: [...made, ...there] } : {};
}

/** Of the disks that will be tracked; null where there is none. */
function checkpointOf({ session, attempt }: DomainRun, { plan, targetId }: Planned): NewCheckpoint | null {
  const tracked = plan.disks.filter(({ newBitmap }) => newBitmap !== null).map(({ source }) => source.address);
  if (tracked.length === 0) return null;
  const others = session.domain.disks.map(({ target }) => target).filter((target) => !tracked.includes(target));
  return { name: checkpointName(targetId, attempt), disks: tracked, without: others };
}

/** The begin may have reached libvirt where its answer did not reach us; the undo looks. */
async function begin(
  { session: { domain } }: DomainRun,
  checkpoint: NewCheckpoint | null,
  copy: DomainCopy,
  staged: readonly StagedImage[],
): Promise<void> {
  try {
    await copy.begin(staged, checkpoint);
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

function inWords(failure: unknown): unknown {
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
