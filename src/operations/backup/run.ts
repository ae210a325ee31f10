import { randomBytes } from 'node:crypto';
import { resolve } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import type { Backend } from '../../backends/backend.js';
import type { BackupOptions } from '../../backends/backup-options.js';
import type { BackupContext, BackupResult, BackupRun, StageContext } from '../../backends/backup-run.js';
import { deadStreams, type SweptVm, sweepStreams } from '../../backends/dead-streams.js';
import { TargetWatch } from '../../backends/target-watch.js';
import { identityOf } from '../../core/identity.js';
import { afterTransaction } from '../../core/plan.js';
import { afterRepairs, afterSeal, type RepairAction } from '../../core/reconcile.js';
import { floorOf, isTight } from '../../core/space.js';
import { type Warn, type Warning, warning } from '../../core/warning.js';
import { messageOf } from '../../errors.js';
import { allOf, eachDisk } from '../../flow/all-of.js';
import type { Unwind } from '../../flow/unwind.js';
import { askFileSystem } from '../../host/free-space.js';
import { refuseUnwritable } from '../../host/probe-file.js';
import { keepCatalogCopy } from '../../repository/catalog-file.js';
import { readJournal, removeJournal } from '../../repository/journal-file.js';
import { lockTarget } from '../../repository/lock.js';
import { refuseDiskFolder, refuseOverlaysInTarget } from '../../repository/nesting.js';
import { Staging } from '../../repository/staging.js';
import { removeRetiredFiles } from '../../repository/retired-files.js';
import { readTarget, refuseOtherVm, targetFolder, type TargetState } from '../../repository/target.js';
import { attemptPoint } from './attempt.js';
import { storedIn, targetInWords } from './check-space.js';
import { planRun } from './plan.js';
import { repairOtherMonths } from './repair-months.js';
import { endRaw, rawSink } from './stream.js';

/** All of a backup once the VM is locked and has been looked at. */
export async function backUp(
  options: BackupOptions,
  outside: BackupContext,
  backend: Backend,
  unwind: Unwind,
): Promise<BackupResult> {
  const watch = startWatch(options, AbortSignal.any([outside.signal, backend.signal]));
  unwind.defer(() => Promise.resolve(watch.close()));
  unwind.waitWithin((step) => watch.whileAnswering(step, LAST_STEP_MS));
  const stored = options.output === '-' ? null : storedIn(options);
  if (options.overlayDir !== null) await watch.whileAnswering(refuseOverlaysInTarget(options.overlayDir, stored));
  const raw = await watch.whileAnswering(rawSink(options, outside, unwind));
  const context: StageContext = { ...outside, raw };
  const identity = identityOf(backend.state.machine, options.label);
  const target = await watch.whileAnswering(
    targetFolder(resolve(options.target), options.monthly, identity, context.now()),
  );
  const warnings: Warning[] = [];
  const run: BackupRun = {
    options,
    identity,
    target,
    attempt: randomBytes(6).toString('hex'),
    warn: (said) => {
      warnings.push(said);
      context.report({ kind: 'warning', ...said });
    },
    remind: (said, lasting) => {
      if (lasting) warnings.push(said);
      context.report({ kind: 'reminder', ...said });
    },
    signal: AbortSignal.any([context.signal, backend.signal, watch.signal]),
    watch,
    context,
  };
  await watch.whileAnswering(refuseDiskFolder(resolve(options.target)));
  const result = await (options.dryRun ? watch.whileAnswering(dryRun(run, backend)) : perform(run, backend, unwind));
  if (raw && result.point) await watch.whileAnswering(endRaw({ target, point: result.point }, raw));
  const standing = result.plan.remarks.flatMap(({ kind, code, text }) => (kind === 'standing' ? [{ code, text }] : []));
  return { ...result, target: options.output ?? target, warnings, standing };
}

/** Milliseconds for each step of the clean-up after a run was given up. */
const LAST_STEP_MS = 1_000;

function startWatch(options: BackupOptions, signal: AbortSignal): TargetWatch {
  const { target, output, stallTimeoutMs, speedLimit } = options;
  const watch = new TargetWatch({ stallMs: stallTimeoutMs, speedLimit, ask: askFileSystem });
  watch.endBy(signal);
  // How much must stay free is known when the run is planned.
  const path = storedIn(options);
  watch.watch({ path, what: targetInWords(output === null ? target : path), floor: 0, tight: false });
  return watch;
}

type Outcome = Omit<BackupResult, 'warnings' | 'standing'>;

/** Without what a prune that was killed has left. */
async function openTarget({ target, options, identity, warn }: BackupRun, backend: Backend): Promise<TargetState> {
  const state = await readTarget(target, options.monthly);
  state.warnings.forEach(warn);
  refuseOtherVm(state, identity, backend.state.disks);
  return state.catalog ? { ...state, catalog: (await removeRetiredFiles(target, state.catalog)).catalog } : state;
}

/** `--dry-run`: everything that is decided, nothing that is done. */
async function dryRun(run: BackupRun, backend: Backend): Promise<Outcome> {
  await refuseUnwritable(run.target);
  const state = await readTarget(run.target, run.options.monthly);
  state.warnings.forEach(run.warn);
  refuseOtherVm(state, run.identity, backend.state.disks);
  const streams = await deadStreams(vmOf(backend), run.warn);
  const left = await eachDisk(streams, (stream) => backend.observeRepairs(stream));
  const repairs = distinct([...left.flat(), ...(await backend.observeRepairs(state))]);
  const ready = backend.foresee(afterRepairs(backend.state, repairs));
  const { plan, space, method } = await planRun(run, ready, state);
  // A guest that a dead run left frozen or stopped goes on first, and can only be asked then.
  if (!repairs.some(({ kind }) => kind === 'thaw' || kind === 'continue')) await ready.checkFreeze(run);
  const { fleece, why } = method.fleecing;
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

async function perform(run: BackupRun, backend: Backend, unwind: Unwind): Promise<Outcome> {
  // What was given up may end much later, and has nothing to say any more.
  const warn: Warn = (said) => {
    if (!run.watch.givenUp.aborted) run.warn(said);
  };
  const { outcome, tidyUp } = await run.watch.whileAnswering(makePoint({ ...run, warn }, backend, unwind));
  // The point is sealed, so nothing here can fail the run: what cannot be done now, the next run does by the journal.
  await run.watch.whileAnswering(tidyUp()).catch((error: unknown) => {
    run.warn(
      warning(
        'left-behind',
        `the point is sealed, but not all was tidied up (${messageOf(error)}); the next run does it`,
      ),
    );
  });
  return outcome;
}

function vmOf({ state, monitor }: Backend): SweptVm {
  return { uuid: state.machine.uuid, monitor };
}

/** What is in the VM is seen beside each journal. */
function distinct(actions: readonly RepairAction[]): readonly RepairAction[] {
  return actions.filter((each, index) => !actions.slice(0, index).some((before) => isDeepStrictEqual(each, before)));
}

interface Made {
  readonly outcome: Outcome;
  readonly tidyUp: () => Promise<void>;
}

async function makePoint(run: BackupRun, backend: Backend, unwind: Unwind): Promise<Made> {
  const { options, target, context, watch } = run;
  const staging = new Staging(target, backend.imageOwner ? { owner: backend.imageOwner } : {});
  unwind.defer(() => staging.undo());
  await staging.makeTarget();
  const lock = await lockTarget(target, {
    breakLock: options.breakLock,
    purpose: `backup of ${backend.subject}`,
  });
  unwind.defer(() => lock.release());
  watch.endBy(lock.signal);
  const locked: BackupRun = { ...run, signal: AbortSignal.any([run.signal, lock.signal]) };

  const state = await openTarget(locked, backend);
  const swept = await sweepStreams(vmOf(backend), backend.state, (stream, vm) => backend.repair(stream, vm), run.warn);
  const others = await repairOtherMonths(locked, backend, swept.vm);
  const { vm: repaired, report } = await backend.repair(state, others.vm);
  report.warnings.forEach(run.warn);
  const ofStreams = swept.streams.flatMap(({ report: { actions } }) => actions);
  const repairs = [...ofStreams, ...others.actions, ...report.actions];
  if (repairs.length > 0) context.report({ kind: 'repaired', actions: repairs });

  const ready = await backend.makeReady(locked, repaired, unwind);
  const { vm, space, method } = await planRun(locked, ready, state);
  const path = storedIn({ output: options.output, target });
  watch.watch({ path, what: targetInWords(path), floor: floorOf(space), tight: isTight(space) });
  const done = await attemptPoint(locked, method, staging, vm);
  staging.keep();
  const { catalog, plan, begun } = done;
  const disks = afterTransaction(vm.disks, begun);
  const { olderMonths } = state;
  // Where a bitmap was lost there is a FULL or a comparison instead. Those of dropped points may be lost, too, and those that a run which died had still
  // to remove: else it is not worth to look into the images.
  const toBeRemoved = state.journal !== undefined || (state.catalog?.retired.length ?? 0) > 0;
  const mayBeLost = toBeRemoved || plan.disks.some(({ level, compares }) => level === 'full' || compares);
  const lookInside = state.catalog !== undefined && mayBeLost;
  const { fleece, why } = done.fleecing;
  // Not the catalog, which is in the target and longer with each point.
  const { point, freeze, pausedMs, transactionMs } = done;
  const fleecing = { fleece, why };
  return {
    outcome: { target, plan, repairs, fleecing, space, point, freeze, pausedMs, transactionMs },
    tidyUp: async () => {
      const retire = async (): Promise<void> => {
        const sources = lookInside ? await ready.withOrphanBitmaps(disks) : disks;
        // Per disk the bitmaps of its latest file and of its latest FULL stay.
        const actions = afterSeal({ catalog, olderMonths, sources, journal: await readJournal(target) });
        (await ready.retire(locked, plan, actions)).forEach(run.warn);
      };
      await allOf([retire(), keepCatalogCopy(target)]);
      await removeJournal(target);
    },
  };
}
