import { randomBytes } from 'node:crypto';
import { resolve } from 'node:path';
import { identityOf } from '../domain/identity.js';
import { afterTransaction, type BackupPlan } from '../domain/plan.js';
import { afterRepairs, retire } from '../domain/reconcile.js';
import { messageOf } from '../errors.js';
import { removeBitmap } from '../qemu/bitmaps.js';
import { dismissJob } from '../qemu/job-watch.js';
import { describeEndpoint } from '../qmp/endpoint.js';
import { removeJournal } from '../repository/journal-file.js';
import { lockTarget } from '../repository/lock.js';
import type { SocketOwner } from '../repository/peer.js';
import { Staging } from '../repository/staging.js';
import { attemptPoint } from './attempt-point.js';
import { eachDisk } from './each-disk.js';
import type { BackupContext, BackupOptions, BackupResult, BackupRun } from './backup-run.js';
import { readTarget, refuseOtherVm, targetFolder } from './open-target.js';
import { planRun } from './plan-run.js';
import { repairOtherMonths } from './repair-months.js';
import { observeRepairs, repair } from './repair.js';
import { type Unwind, unwinding } from './unwind.js';
import { openVm, type VmSession } from './vm-session.js';

/**
 * One backup, as data flows: lock, catalog and VM state, reconcile, plan, journal and staged targets, [freeze]
 * transaction [thaw], watched jobs, seal, old bitmaps retired. Each stage takes one value and hands one on.
 */
export function backup(options: BackupOptions, context: BackupContext): Promise<BackupResult> {
  return unwinding(async (unwind) => {
    const session = await openVm({ ...options, what: `backup into ${options.target}` }, unwind);
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
      signal: AbortSignal.any([context.signal, session.signal]),
      context,
    };
    const result = await (options.dryRun ? rehearse(run) : perform(run, unwind));
    return { ...result, warnings };
  });
}

type Outcome = Omit<BackupResult, 'warnings'>;

/** `--dry-run`: everything that is decided, nothing that is done. */
async function rehearse(run: BackupRun): Promise<Outcome> {
  const state = await readTarget(run.target, run.options.monthly);
  state.warnings.forEach(run.warn);
  refuseOtherVm(state, run.identity, run.session.state.disks);
  const repairs = await observeRepairs(state, run.session.state);
  const { plan, fleecing } = await planRun(run, state, afterRepairs(run.session.state, repairs));
  const { fleece, why } = fleecing;
  return {
    target: run.target,
    plan,
    repairs,
    fleecing: { fleece, why },
    point: null,
    freeze: null,
    pausedMs: null,
    transactionMs: null,
  };
}

async function perform(run: BackupRun, unwind: Unwind): Promise<Outcome> {
  const { options, session, target, context } = run;
  const qemuUser = userOfQemu(session);
  const staging = new Staging(target, qemuUser ? { owner: qemuUser } : {});
  unwind.defer(() => staging.undo());
  await staging.makeTarget();
  const lock = await lockTarget(target, {
    breakLock: options.breakLock,
    what: `backup of ${describeEndpoint(session.endpoint)}`,
  });
  unwind.defer(() => lock.release());
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
  const done = await attemptPoint(locked, planned, staging, vm, qemuUser);
  staging.keep();
  const sources = afterTransaction(vm.disks, planned.plan);
  await tidyUp(locked, planned.plan, { catalog: done.catalog, olderMonths: state.olderMonths, sources });
  const { fleece, why } = planned.fleecing;
  // Not the catalog, which is in the target and longer with each point.
  const { point, freeze, pausedMs, transactionMs } = done;
  const fleecing = { fleece, why };
  return { target, plan: planned.plan, repairs, fleecing, point, freeze, pausedMs, transactionMs };
}

/**
 * The point is sealed, so nothing here can fail the run: what cannot be done now, the next run does by the journal.
 * Keeps per disk the bitmaps of its latest file and of its latest FULL.
 */
async function tidyUp(run: BackupRun, plan: BackupPlan, seen: Parameters<typeof retire>[0]): Promise<void> {
  const { client } = run.session;
  try {
    await Promise.all(plan.disks.map(({ job }) => dismissJob(client, job)));
    await eachDisk(retire(seen), async (action) => {
      if (action.kind === 'remove-bitmap') await removeBitmap(client, action.node, action.bitmap);
    });
    await removeJournal(run.target);
  } catch (error) {
    run.warn(`the point is sealed, but not all was tidied up (${messageOf(error)}); the next run does it`);
  }
}

/** Files that root makes for a QEMU that runs as somebody else must belong to that user. */
function userOfQemu({ owner }: VmSession): SocketOwner | undefined {
  return process.getuid?.() === 0 ? owner : undefined;
}
