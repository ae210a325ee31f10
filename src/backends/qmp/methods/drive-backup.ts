import { dirname } from 'node:path';
import type { VmState } from '../../../core/disk.js';
import type { FailedCopy } from '../../../core/failed-copies.js';
import { fleecingImpossible } from '../../../core/fleece-choice.js';
import type { Hardware } from '../../../core/hardware.js';
import type { Journal } from '../../../core/journal.js';
import { guardNodeName } from '../../../core/names.js';
import { afterTransaction } from '../../../core/plan.js';
import { type Warning, warning } from '../../../core/warning.js';
import { messageOf, QmpBackupError } from '../../../errors.js';
import type { SocketOwner } from '../../../host/socket-owner.js';
import { NbdConnectionLost } from '../../../nbd/errors.js';
import { answersByCluster } from '../../../qemu/fleece.js';
import { inspectVm } from '../../../qemu/inspect.js';
import { readHardware } from '../../../qemu/read-hardware.js';
import { type JobErrors, listenForJobErrors } from '../../../qemu/job-errors.js';
import { dismissJob, setSpeed, TRICKLE } from '../../../qemu/job-watch.js';
import { mayGo } from '../../../qemu/stay-here.js';
import { startFleecedJobs, type TransactionDisk, type TransactionOptions } from '../../../qemu/transaction.js';
import { haveBeenClosed } from '../../../qemu-tools/in-use.js';
import { QmpConnectionLost } from '../../../qmp/errors.js';
import type { Staging } from '../../../repository/staging.js';
import type { TargetState } from '../../../repository/target.js';
import type { BackupRun } from '../../backup-run.js';
import type {
  Begun,
  Copies,
  CopyAttempt,
  CopyMethod,
  Ended,
  Freezer,
  GivenUp,
  StagedImage,
} from '../../copy-method.js';
import { ENDED_VM, repairOffline } from '../../repair-offline.js';
import { type LeftByDeadRun, leftByDeadRun, retiring } from '../../methods/left-by-dead-run.js';
import { newJournal } from '../../methods/attempt-journal.js';
import { wholeCopies } from '../../methods/whole-copies.js';
import { beginPoint, knownOutcome } from '../begin-point.js';
import { explained } from '../explain-refusal.js';
import { followJobs } from '../follow-jobs.js';
import { journalledEndpoint } from '../journalled-endpoint.js';
import { holdVm, refuseMoved } from '../hold-vm.js';
import { prepareFleece } from '../prepare-fleece.js';
import { probeImages } from '../probe-images.js';
import { repair, takeFailedOut, takeFleecingOut } from '../repair.js';
import { pullDisks } from '../../methods/pull-disks.js';
import type { PulledDisk } from '../../methods/pulled-disk.js';
import type { QmpPlan, QmpRun } from '../run.js';
import type { VmSession } from '../session.js';
import { type Guards, releaseGuards, startGuards } from '../start-guards.js';
import { exportPart, isFleeced, serveInstants, verifyPoint } from '../verify.js';

/**
 * QEMU writes the images by its own backup jobs, begun in one transaction: from the disk itself, or fleeced, from a
 * snapshot whose old data go to a scratch image. `qemuUser`: to whom files must belong so that QEMU can open them.
 */
export function driveBackup(session: VmSession, asked: QmpPlan, qemuUser: SocketOwner | undefined): CopyMethod {
  return {
    fleecing: asked.fleecing,
    start: async (running, vm) => {
      const run = { ...running, session };
      const left = await leftByDeadRun(run, asked.catalog);
      // Before anything else of this run is anywhere.
      const held = await heldPlan(run, asked, qemuUser).catch((error: unknown) => {
        throw inWords(error);
      });
      const planned = retiring(run, held, left);
      const guards = await startGuards(run, vm, planned.fleecing.fleece).catch(async (error: unknown) => {
        await mayGo(session.client, guardNodeName(run.attempt));
        throw error;
      });
      const errors = listenForJobErrors(session.client);
      return new DriveBackup(run, planned, { guards, errors, left, qemuUser, vm });
    },
  };
}

/** The plan of a VM that is held where it is; one that cannot be held must not be fleeced. */
async function heldPlan(run: QmpRun, planned: QmpPlan, qemuUser: SocketOwner | undefined): Promise<QmpPlan> {
  const { options } = run;
  const free = await holdVm(run, qemuUser);
  if (free === null || !planned.fleecing.fleece) return planned;
  const obstacle = `this QEMU cannot be kept from migrating its guest meanwhile: ${free}`;
  if (options.fleece === 'always' || options.verify !== null) throw fleecingImpossible(planned.fleecing.why, obstacle);
  const why = `${planned.fleecing.why}, but fleecing is not possible here: ${obstacle}`;
  run.warn(warning('not-fleeced', `not fleeced: ${why}`));
  return { ...planned, fleecing: { ...planned.fleecing, fleece: false, why, disks: new Map() } };
}

/**
 * Milliseconds until the transaction's outcome counts as unknown. The guest does not wait for it: the guard thaws at its
 * own limit, and a transaction that ends well after that makes a crash point.
 */
const TRANSACTION_TIMEOUT_MS = 9_000;

interface Parts {
  readonly guards: Guards;
  readonly errors: JobErrors;
  readonly left: LeftByDeadRun;
  readonly qemuUser: SocketOwner | undefined;
  readonly vm: VmState;
}

class DriveBackup implements CopyAttempt {
  readonly planned: QmpPlan;
  readonly fleecing: QmpPlan['fleecing'];
  readonly journal: Journal;
  readonly atStake: CopyAttempt['atStake'];
  readonly freezer: Freezer | null;
  readonly keepsBitmapsOfFailed = false;
  readonly qemuWrites = true;
  readonly compressionType: 'zstd' | null;
  readonly #run: QmpRun;
  readonly #parts: Parts;
  /** Asked while the images are made, which takes longer. */
  readonly #hardware: Promise<Hardware | null>;
  #disks: readonly TransactionDisk[] = [];
  /** The monitor: QEMU has ended, or nobody can reach it. */
  #isLost = false;

  constructor(run: QmpRun, planned: QmpPlan, parts: Parts) {
    const { fleecing } = planned;
    this.#run = run;
    this.#parts = parts;
    this.planned = planned;
    this.fleecing = fleecing;
    this.journal = journalOf(run, planned, parts.left);
    this.atStake = atStake(run.options, parts.guards);
    this.freezer = parts.guards.freeze;
    this.#hardware = readHardware(run.session.client, planned.plan.disks);
    // Whoever waits for it hears of that, unless something else fails first.
    this.#hardware.catch(() => undefined);
    this.compressionType = run.options.compress ? (fleecing.features?.compressionType ?? null) : null;
  }

  async prepare(staged: readonly StagedImage[]): Promise<void> {
    const { session, signal, warn } = this.#run;
    const { qemuUser } = this.#parts;
    const { disks: fleeced, fleece } = this.fleecing;
    const options = { qemuUser, fleeced, signal, mayHang: this.planned.network, warn };
    // Of a copy that is no point QEMU writes no image.
    this.#disks = this.#run.context.raw
      ? toBeRead(staged, fleeced)
      : await probeImages(session.client, staged, options);
    // Before a filter is above any disk, under whose name its device would tell of it.
    await this.#hardware;
    if (fleece) await prepareFleece(this.#run, this.#disks, qemuUser);
  }

  begin(): Promise<Begun> {
    const { session, options } = this.#run;
    return beginPoint(session.client, this.#disks, this.#parts.guards.pause, {
      ...this.#jobOptions(),
      speed: this.freezer ? TRICKLE : options.speedLimit,
      cbwTimeoutS: Math.ceil(options.cbwTimeoutMs / 1000),
    });
  }

  #jobOptions(): TransactionOptions {
    const { session, options } = this.#run;
    return {
      speed: options.speedLimit,
      compress: options.compress,
      endOneByOne: this.#parts.vm.iothread !== null,
      jobOnCbwError: this.fleecing.features?.driveBackup.onCbwError ?? false,
      clusterReads: answersByCluster(session.client.greeting),
      timeoutMs: TRANSACTION_TIMEOUT_MS,
    };
  }

  async begun<T>(taken: T): Promise<T> {
    const { session, options, context } = this.#run;
    const slowed = this.#disks.filter(({ fleece }) => this.freezer && !fleece).map(({ planned }) => planned.job);
    await setSpeed(session.client, slowed, options.speedLimit);
    await releaseGuards(this.#parts.guards);
    if (!context.raw) await startFleecedJobs(session.client, this.#disks, this.#jobOptions());
    return taken;
  }

  async copy(): Promise<Copies> {
    if (this.#run.context.raw) return this.#stream();
    const copies = await followJobs(this.#run, this.planned, this.#parts.errors);
    this.#parts.errors.close();
    return copies;
  }

  /** The instants are read from here, over NBD. */
  async #stream(): Promise<Copies> {
    const fleeced = this.#disks.filter(isFleeced);
    const [first] = fleeced;
    if (!first) throw new Error('a copy without a disk that is fleeced');
    const path = await serveInstants(this.#run, first, this.#serving(), '--output');
    const byCluster = answersByCluster(this.#run.session.client.greeting);
    const disks: PulledDisk[] = [];
    for (const [index, disk] of fleeced.entries()) {
      const exportName = await exportPart(this.#run, disk, 'snapshot', index);
      const source = { address: { kind: 'unix' as const, path }, exportName };
      disks.push({
        planned: disk.planned,
        path: disk.path,
        empty: { size: disk.planned.source.virtualSize },
        source,
        ...{ bitmap: null, below: null, whole: null },
        overwritten: byCluster ? await exportPart(this.#run, disk, 'scratch', index) : null,
      });
    }
    const lost = new AbortController();
    void this.#run.session.client.lost.then((error) => error && lost.abort(error));
    const signal = AbortSignal.any([this.#run.signal, lost.signal]);
    const copies = await pullDisks({ ...this.#run, signal }, disks, dirname(first.fleece.scratch));
    this.#parts.errors.close();
    return copies;
  }

  async verify(images: readonly StagedImage[]): Promise<void> {
    const disks = this.#disks.flatMap((disk) => {
      const image = images.find(({ planned }) => planned === disk.planned);
      return image ? [{ ...disk, path: image.path }] : [];
    });
    await verifyPoint(this.#run, this.planned, disks, this.#serving());
  }

  /** The jobs have ended: the guest needs the filters no longer, and their scratch images may go. */
  async end(_staging: Staging, failed: readonly FailedCopy[]): Promise<Ended> {
    const { session, target, warn } = this.#run;
    const { client } = session;
    if (this.fleecing.fleece) {
      await Promise.all(this.journal.disks.map(({ job }) => dismissJob(client, job)));
      (await takeFleecingOut(client, this.#serving())).forEach(warn);
    }
    const { catalog, plan } = this.planned;
    const made = { catalog, disks: afterTransaction(this.#parts.vm.disks, plan) };
    const { warnings, stuck } = await takeFailedOut(client, this.journal, { target, failed }, made);
    warnings.forEach(warn);
    return { definition: null, hardware: await this.#hardware, stuck };
  }

  async giveUp(error: unknown): Promise<GivenUp> {
    this.#parts.errors.close();
    // The guest is thawed by now, and what was started after all can be cancelled.
    await knownOutcome(error);
    const thawed = await this.#released();
    return { failure: await explained(this.#run.session.client, this.planned.plan.disks, error), thawed };
  }

  async undo(target: TargetState): Promise<readonly Warning[]> {
    const { client } = this.#run.session;
    try {
      await refuseMoved(client);
      const { report } = await repair(client, target, await inspectVm(client));
      return report.warnings;
    } catch (error) {
      this.#isLost = error instanceof QmpConnectionLost;
      // Where QEMU has ended, or had nothing of this run open yet.
      if (!this.#isLost || !(await haveBeenClosed(this.#written()))) throw error;
      return (await repairOffline(target, ENDED_VM)).warnings;
    }
  }

  /** What QEMU has open for writing as long as it lives. */
  #written(): readonly string[] {
    return this.#disks.flatMap(({ path, fleece }) => (fleece ? [path, fleece.scratch] : [path]));
  }

  explain(failure: unknown): unknown {
    return this.#isLost && failure instanceof NbdConnectionLost ? monitorLost(failure) : inWords(failure);
  }

  #serving(): Journal {
    const { options, context } = this.#run;
    return { ...this.journal, servesNbd: options.verify !== null || context.raw !== undefined };
  }

  /** Resolves to whether nothing is frozen by us any more. */
  async #released(): Promise<boolean> {
    try {
      await releaseGuards(this.#parts.guards);
      return true;
    } catch (failure) {
      this.#run.warn(warning('guest-frozen', messageOf(failure)));
      return false;
    }
  }
}

/** @throws QmpBackupError `unsafe` for a disk that no guest device has open: it has no instant without a job */
function toBeRead(staged: readonly StagedImage[], fleeced: QmpPlan['fleecing']['disks']): readonly TransactionDisk[] {
  return staged.map(({ planned, path }) => {
    const fleece = fleeced.get(planned.disk);
    if (fleece) return { planned, path, aio: 'threads', fleece };
    throw new QmpBackupError(
      'unsafe',
      `--output: no guest device has ${planned.disk} open, so its instant cannot be kept`,
      {
        hint: `Leave it out with --exclude ${planned.disk}, or take the backup into a target.`,
      },
    );
  });
}

function journalOf(run: QmpRun, { plan, fleecing }: QmpPlan, left: LeftByDeadRun): Journal {
  const whole = wholeCopies(plan, run);
  return {
    ...newJournal(run, { kind: 'monitor', endpoint: journalledEndpoint(run.session.endpoint) }),
    disks: [
      ...plan.disks.map(({ disk, newBitmap, job, file }) => ({ disk, bitmap: newBitmap?.name ?? null, job, file })),
      ...whole.disks,
      ...left.disks,
    ],
    madeFolders: plan.disks.map(({ disk }) => disk),
    scratch: [...new Set([...fleecing.disks.values()].map(({ scratch }) => dirname(scratch))), ...whole.scratch],
  };
}

/** What a run that dies within the instant leaves to be thawed and continued. */
function atStake({ agent }: BackupRun['options'], { freeze, pause }: Guards): CopyAttempt['atStake'] {
  if (freeze === null && pause === null) return null;
  return {
    freezes: freeze && agent ? { kind: 'agent', endpoint: journalledEndpoint(agent) } : null,
    stops: pause !== null,
  };
}

function inWords(failure: unknown): unknown {
  return failure instanceof QmpConnectionLost ? monitorLost(failure) : failure;
}

function monitorLost(cause: QmpBackupError): QmpBackupError {
  return new QmpBackupError('failed', `the VM's monitor was lost during the backup: ${cause.message}`, {
    cause,
    hint: 'No point was made and no change is lost. Run it again when the VM is up.',
  });
}
