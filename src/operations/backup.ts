import { randomBytes } from 'node:crypto';
import { resolve } from 'node:path';
import { identityOf } from '../domain/identity.js';
import { afterTransaction, type BackupPlan } from '../domain/plan.js';
import { afterRepairs, retire } from '../domain/reconcile.js';
import { floorOf, isTight } from '../domain/space.js';
import { messageOf } from '../errors.js';
import { removeBitmap } from '../qemu/bitmaps.js';
import { dismissJob } from '../qemu/job-watch.js';
import { describeEndpoint } from '../qmp/endpoint.js';
import { askFileSystem, freeSpace } from '../repository/free-space.js';
import { removeJournal } from '../repository/journal-file.js';
import { lockTarget } from '../repository/lock.js';
import type { SocketOwner } from '../repository/peer.js';
import { Staging } from '../repository/staging.js';
import { attemptPoint } from './attempt-point.js';
import { targetInWords } from './check-space.js';
import { eachDisk } from './each-disk.js';
import type { BackupContext, BackupOptions, BackupResult, BackupRun } from './backup-run.js';
import { readTarget, refuseOtherVm, targetFolder } from './open-target.js';
import { planRun } from './plan-run.js';
import { repairOtherMonths } from './repair-months.js';
import { observeRepairs, repair } from './repair.js';
import { TargetWatch } from './target-watch.js';
import { type Unwind, unwinding } from './unwind.js';
import { ENDING_MS, openVm, type VmSession } from './vm-session.js';

/**
 * One backup, as data flows: lock, catalog and VM state, reconcile, plan, journal and staged targets, [freeze]
 * transaction [thaw], watched jobs, seal, old bitmaps retired. Each stage takes one value and hands one on.
 */
export function backup(options: BackupOptions, context: BackupContext): Promise<BackupResult> {
  return unwinding(async (unwind) => {
    // First of all, and before anything is changed: whatever touches a target that hangs would hang too.
    await freeSpace(resolve(options.target), { timeoutMs: options.stallTimeoutMs, signal: context.signal });
    const endDeadJobsMs = options.dryRun ? null : Math.min(options.stallTimeoutMs, ENDING_MS);
    const session = await openVm({ ...options, what: `backup into ${options.target}`, endDeadJobsMs }, unwind);
    const watch = startWatch(options, AbortSignal.any([context.signal, session.signal]));
    unwind.defer(() => Promise.resolve(watch.close()));
    unwind.waitWithin((step) => watch.whileAnswering(step, LAST_STEP_MS));
    const identity = identityOf(session.state.machine, options.label);
    const month = options.monthly ? await context.month() : '';
    const target = targetFolder(resolve(options.target), options.monthly, identity, () => month);
    const warnings: string[] = [];
    const run: BackupRun = {
      options,
      session,
      identity,
      target,
      attempt: randomBytes(6).toString('hex'),
      warn: (text) => {
        warnings.push(text);
        context.report({ kind: 'warning', text });
      },
      signal: AbortSignal.any([context.signal, session.signal, watch.signal]),
      watch,
      context,
    };
    const result = await (options.dryRun ? watch.whileAnswering(rehearse(run)) : perform(run, unwind));
    return { ...result, warnings };
  });
}

/** Milliseconds for each step of the clean-up after a run was given up. */
const LAST_STEP_MS = 1_000;

function startWatch({ target, stallTimeoutMs, speedLimit }: BackupOptions, signal: AbortSignal): TargetWatch {
  const watch = new TargetWatch({ stallMs: stallTimeoutMs, speedLimit, ask: askFileSystem });
  watch.endBy(signal);
  // How much must stay free is known when the run is planned.
  watch.watch({ path: resolve(target), what: targetInWords(target), floor: 0, tight: false });
  return watch;
}

type Outcome = Omit<BackupResult, 'warnings'>;

/** `--dry-run`: everything that is decided, nothing that is done. */
async function rehearse(run: BackupRun): Promise<Outcome> {
  const state = await readTarget(run.target, run.options.monthly);
  state.warnings.forEach(run.warn);
  refuseOtherVm(state, run.identity, run.session.state.disks);
  const repairs = await observeRepairs(state, run.session.state);
  const { plan, space, fleecing } = await planRun(run, state, afterRepairs(run.session.state, repairs));
  const { fleece, why } = fleecing;
  return {
    target: run.target,
    plan,
    repairs,
    fleecing: { fleece, why },
    space,
    point: null,
    freeze: null,
    pausedMs: null,
    transactionMs: null,
  };
}

async function perform(run: BackupRun, unwind: Unwind): Promise<Outcome> {
  // What was given up may end much later, and has nothing to say any more.
  const warn = (text: string): void => {
    if (!run.watch.givenUp.aborted) run.warn(text);
  };
  const { outcome, tidyUp } = await run.watch.whileAnswering(makePoint({ ...run, warn }, unwind));
  // The point is sealed, so nothing here can fail the run: what cannot be done now, the next run does by the journal.
  await run.watch.whileAnswering(tidyUp()).catch((error: unknown) => {
    run.warn(`the point is sealed, but not all was tidied up (${messageOf(error)}); the next run does it`);
  });
  return outcome;
}

interface Made {
  readonly outcome: Outcome;
  readonly tidyUp: () => Promise<void>;
}

async function makePoint(run: BackupRun, unwind: Unwind): Promise<Made> {
  const { options, session, target, context, watch } = run;
  const qemuUser = userOfQemu(session);
  const staging = new Staging(target, qemuUser ? { owner: qemuUser } : {});
  unwind.defer(() => staging.undo());
  await staging.makeTarget();
  const lock = await lockTarget(target, {
    breakLock: options.breakLock,
    what: `backup of ${describeEndpoint(session.endpoint)}`,
  });
  unwind.defer(() => lock.release());
  watch.endBy(lock.signal);
  const locked: BackupRun = { ...run, signal: AbortSignal.any([run.signal, lock.signal]) };

  const state = await readTarget(target, options.monthly);
  state.warnings.forEach(run.warn);
  refuseOtherVm(state, run.identity, session.state.disks);
  const others = await repairOtherMonths(locked, session.state);
  const { vm, report } = await repair(session.client, state, others.vm);
  report.warnings.forEach(run.warn);
  const repairs = [...others.actions, ...report.actions];
  if (repairs.length > 0) context.report({ kind: 'repaired', actions: repairs });

  const planned = await planRun(locked, state, vm);
  const { space } = planned;
  watch.watch({ path: target, what: targetInWords(target), floor: floorOf(space), tight: isTight(space) });
  const done = await attemptPoint(locked, planned, staging, vm, qemuUser);
  staging.keep();
  const sources = afterTransaction(vm.disks, planned.plan);
  const seen = { catalog: done.catalog, olderMonths: state.olderMonths, sources };
  const { fleece, why } = planned.fleecing;
  // Not the catalog, which is in the target and longer with each point.
  const { point, freeze, pausedMs, transactionMs } = done;
  const fleecing = { fleece, why };
  return {
    outcome: { target, plan: planned.plan, repairs, fleecing, space, point, freeze, pausedMs, transactionMs },
    tidyUp: () => tidyUp(locked, planned.plan, seen),
  };
}

/** Keeps per disk the bitmaps of its latest file and of its latest FULL. */
async function tidyUp(run: BackupRun, plan: BackupPlan, seen: Parameters<typeof retire>[0]): Promise<void> {
  const { client } = run.session;
  await Promise.all(plan.disks.map(({ job }) => dismissJob(client, job)));
  await eachDisk(retire(seen), async (action) => {
    if (action.kind === 'remove-bitmap') await removeBitmap(client, action.node, action.bitmap);
  });
  await removeJournal(run.target);
}

/** Files that root makes for a QEMU that runs as somebody else must belong to that user. */
function userOfQemu({ owner }: VmSession): SocketOwner | undefined {
  return process.getuid?.() === 0 ? owner : undefined;
}
