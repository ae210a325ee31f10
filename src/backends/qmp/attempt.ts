import { dirname, resolve } from 'node:path';
import type { Journal } from '../../core/catalog.js';
import type { VmState } from '../../core/disk.js';
import { fleecingImpossible } from '../../core/fleece-choice.js';
import { guardNodeName } from '../../core/names.js';
import { messageOf, QmpBackupError } from '../../errors.js';
import type { SocketOwner } from '../../host/socket-owner.js';
import { inspectVm } from '../../qemu/inspect.js';
import { dismissJob } from '../../qemu/job-watch.js';
import { mayGo } from '../../qemu/stay-here.js';
import { describeEndpoint, type Endpoint } from '../../qmp/endpoint.js';
import { QmpConnectionLost } from '../../qmp/errors.js';
import { writeJournal } from '../../repository/journal-file.js';
import type { Staging } from '../../repository/staging.js';
import { newJournal } from '../attempt/attempt-journal.js';
import { setFailedAside } from '../attempt/failed-disks.js';
import { sealPoint } from '../attempt/seal-point.js';
import { undoAttempt } from '../attempt/undo-attempt.js';
import type { Done } from '../backend.js';
import { explained } from './explain-refusal.js';
import { followJobs } from './follow-jobs.js';
import { holdVm, refuseMoved } from './hold-vm.js';
import { prepareFleece } from './prepare-fleece.js';
import { repair, takeFailedOut, takeFleecingOut } from './repair.js';
import type { QmpPlan, QmpRun } from './run.js';
import { stagePoint } from './stage.js';
import { releaseGuards, startGuards } from './start-guards.js';
import { type Guards, takePoint } from './take-instant.js';
import { verifyPoint } from './verify.js';

/** Journal, staging, transaction, jobs, seal. A failure before the commit point drops the attempt's own traces. */
export async function attemptPoint(
  run: QmpRun,
  asked: QmpPlan,
  staging: Staging,
  vm: VmState,
  qemuUser: SocketOwner | undefined,
): Promise<Done> {
  const { options, session, context } = run;
  run.signal.throwIfAborted();
  // Before anything else of this run is anywhere.
  const planned = await heldPlan(run, asked, qemuUser).catch((error: unknown) => {
    throw inWords(error);
  });
  const { plan, fleecing } = planned;
  const guards = await startGuards(run, vm, fleecing.fleece).catch(async (error: unknown) => {
    await mayGo(session.client, guardNodeName(run.attempt));
    throw error;
  });
  try {
    const journal = journalOf(run, planned);
    await writeJournal(run.target, journal);
    const staged = await stagePoint(session.client, staging, plan.disks, {
      compressionType: options.compress ? (fleecing.features?.compressionType ?? null) : null,
      qemuUser,
      signal: run.signal,
      mayHang: planned.network,
      warn: run.warn,
      fleeced: fleecing.disks,
    });
    if (fleecing.fleece) await prepareFleece(run, staged, qemuUser);
    run.signal.throwIfAborted();
    // Only for the instant itself: a later run must not thaw or continue what somebody else has frozen or stopped since.
    const guarded = guards.freeze !== null || guards.pause !== null;
    if (guarded) await writeJournal(run.target, { ...journal, ...atStake(run, guards) });
    const instant = await takePoint(session.client, staged, guards, {
      speed: options.speedLimit,
      compress: options.compress,
      endOneByOne: vm.iothread !== null,
      jobOnCbwError: fleecing.features?.driveBackup.onCbwError ?? false,
      cbwTimeoutS: Math.ceil(options.cbwTimeoutMs / 1000),
      timeoutMs: TRANSACTION_TIMEOUT_MS,
      now: context.now,
      requireFreeze: options.quiesce === 'require',
      signal: run.signal,
      warn: run.warn,
    });
    await releaseGuards(guards);
    if (guarded) await writeJournal(run.target, journal);
    context.report({ kind: 'started', instant });
    const { outcomes, failed } = await followJobs(run, planned);
    const left = setFailedAside(run, planned, staged, failed);
    const serving: Journal = { ...journal, servesNbd: options.verify !== null };
    if (options.verify !== null) await verifyPoint(run, left.planned, left.staged, serving);
    if (fleecing.fleece) await endFleecing(run, serving);
    if (failed.length > 0) {
      const { target } = run;
      (await takeFailedOut(session.client, journal, { target, failed }, planned)).forEach(run.warn);
    }
    context.report({ kind: 'sealing' });
    const sealed = await sealPoint(run, left.planned, staging, left.staged, { vm, instant, outcomes });
    const { freeze, pausedMs, transactionMs } = instant;
    return { ...sealed, fleecing, freeze, pausedMs, transactionMs };
  } catch (error) {
    const thawed = await released(run, guards);
    throw await undone(run, await explained(session.client, plan.disks, error), { thawed });
  }
}

/** The plan of a VM that is held where it is; one that cannot be held must not be fleeced. */
async function heldPlan(run: QmpRun, planned: QmpPlan, qemuUser: SocketOwner | undefined): Promise<QmpPlan> {
  const { options } = run;
  const free = await holdVm(run, qemuUser);
  if (free === null || !planned.fleecing.fleece) return planned;
  const obstacle = `this QEMU cannot be kept from migrating its guest meanwhile: ${free}`;
  if (options.fleece === 'always' || options.verify !== null) throw fleecingImpossible(planned.fleecing.why, obstacle);
  const why = `${planned.fleecing.why}, but fleecing is not possible here: ${obstacle}`;
  run.warn(`not fleeced: ${why}`);
  return { ...planned, fleecing: { ...planned.fleecing, fleece: false, why, disks: new Map() } };
}

/**
 * Milliseconds until the transaction's outcome counts as unknown. The guest does not wait for it: the guard thaws at its
 * own limit, and a transaction that ends well after that makes a crash point.
 */
const TRANSACTION_TIMEOUT_MS = 9_000;

/** The jobs have ended: the guest needs the filters no longer, and their scratch images may go. */
async function endFleecing(run: QmpRun, journal: Journal): Promise<void> {
  const { client } = run.session;
  await Promise.all(journal.disks.map(({ job }) => dismissJob(client, job)));
  (await takeFleecingOut(client, journal)).forEach(run.warn);
}

function journalOf(run: QmpRun, { plan, fleecing }: QmpPlan): Journal {
  return {
    ...newJournal(run, addressOf(run.session.endpoint)),
    disks: plan.disks.map(({ disk, newBitmap, job, file }) => ({ disk, bitmap: newBitmap?.name ?? null, job, file })),
    madeFolders: plan.disks.map(({ disk }) => disk),
    scratch: [...new Set([...fleecing.disks.values()].map(({ scratch }) => dirname(scratch)))],
  };
}

/** What a run that dies within the instant leaves to be thawed and continued. */
function atStake({ options }: QmpRun, { freeze, pause }: Guards): Pick<Journal, 'freezes' | 'stops'> {
  return { freezes: freeze && options.agent ? addressOf(options.agent) : null, stops: pause !== null };
}

/** As a later run in another folder can use it. */
function addressOf(endpoint: Endpoint): string {
  return describeEndpoint(endpoint.kind === 'unix' ? { ...endpoint, path: resolve(endpoint.path) } : endpoint);
}

/** Resolves to whether nothing is frozen by us any more. */
async function released(run: QmpRun, guards: Guards): Promise<boolean> {
  try {
    await releaseGuards(guards);
    return true;
  } catch (failure) {
    run.warn(messageOf(failure));
    return false;
  }
}

async function undone(run: QmpRun, error: unknown, how: { readonly thawed: boolean }): Promise<unknown> {
  const { client } = run.session;
  const failure = await undoAttempt(run, error, how, async (target) => {
    await refuseMoved(client);
    const { report } = await repair(client, target, await inspectVm(client));
    report.warnings.forEach(run.warn);
  });
  return inWords(failure);
}

function inWords(failure: unknown): unknown {
  if (failure instanceof QmpConnectionLost) {
    return new QmpBackupError('failed', `the VM's monitor was lost during the backup: ${failure.message}`, {
      cause: failure,
      hint: 'No point was made and no change is lost. Run it again when the VM is up.',
    });
  }
  return failure;
}
