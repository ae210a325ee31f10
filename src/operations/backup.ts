import { randomBytes } from 'node:crypto';
import { resolve } from 'node:path';
import { CATALOG_SCHEMA, type Catalog, type Journal, type Point } from '../domain/catalog.js';
import { currentChain, latestFile, latestFull, lineOf } from '../domain/chain.js';
import { type JobState, type VmState } from '../domain/disk.js';
import { identityOf, type VmIdentity } from '../domain/identity.js';
import { type BackupPlan, type BackupRequest, planBackup } from '../domain/plan.js';
import { type KnownSource, recognise } from '../domain/recognise.js';
import { retire, type RepairAction } from '../domain/reconcile.js';
import { messageOf, QmpBackupError } from '../errors.js';
import { FreezeGuard } from '../guest-agent/freeze-guard.js';
import { removeBitmap } from '../qemu/bitmaps.js';
import { compressionTypeOf } from '../qemu/compression.js';
import { inspectVm } from '../qemu/inspect.js';
import { dismissJob, type JobOutcome, watchJobs } from '../qemu/job-watch.js';
import { describeEndpoint, type Endpoint } from '../qmp/endpoint.js';
import { QmpConnectionLost } from '../qmp/errors.js';
import { checkLine } from '../repository/file-state.js';
import { writeJournal, removeJournal } from '../repository/journal-file.js';
import { lockTarget } from '../repository/lock.js';
import { ownerOfSocket, type SocketOwner } from '../repository/peer.js';
import { Staging } from '../repository/staging.js';
import { listFiles, readTarget, refuseOtherVm, targetFolder, type TargetState } from './open-target.js';
import { observeRepairs, repair } from './repair.js';
import { sealPoint } from './seal-point.js';
import { stagePoint } from './stage-point.js';
import { type Freeze, type Instant, takePoint } from './take-point.js';
import { unwinding, type Unwind } from './unwind.js';
import { openVm, type VmAccess, type VmSession } from './vm-session.js';

/**
 * One backup, as data flows: lock, catalog and VM state, reconcile, plan, journal and staged targets, [freeze]
 * transaction [thaw], watched jobs, seal, old bitmaps retired. Each stage takes one value and hands one on.
 */
export interface BackupOptions extends BackupRequest, Omit<VmAccess, 'what'> {
  readonly target: string;
  readonly monthly: boolean;
  /** `--vm-name`. */
  readonly label: string | null;
  readonly agent: Endpoint | null;
  readonly quiesce: 'no' | 'try' | 'require';
  /** Milliseconds the agent may take to freeze. */
  readonly freezeTimeoutMs: number;
  /** Milliseconds after which the guard thaws, whatever happens. */
  readonly freezeLimitMs: number;
  /** Bytes per second per disk; 0 is no limit. */
  readonly speedLimit: number;
  readonly digests: boolean;
  readonly dryRun: boolean;
  /** Milliseconds between two looks at the jobs. */
  readonly progressIntervalMs: number;
  /** Name and version that the catalog records. */
  readonly tool: string;
}

export type BackupEvent =
  | { readonly kind: 'warning'; readonly text: string }
  | { readonly kind: 'repaired'; readonly actions: readonly RepairAction[] }
  | { readonly kind: 'planned'; readonly target: string; readonly plan: BackupPlan }
  | { readonly kind: 'started'; readonly instant: Instant }
  | { readonly kind: 'progress'; readonly disks: readonly DiskProgress[] }
  | { readonly kind: 'sealing' };

export interface DiskProgress {
  readonly disk: string;
  /** Bytes. */
  readonly done: number;
  readonly total: number;
}

export interface BackupResult {
  readonly target: string;
  readonly plan: BackupPlan;
  /** Repairs made before the run; with `--dry-run` those that would be. */
  readonly repairs: readonly RepairAction[];
  readonly warnings: readonly string[];
  /** Null after `--dry-run`. */
  readonly point: Point | null;
  readonly freeze: Freeze | null;
  readonly transactionMs: number | null;
}

export interface BackupContext {
  readonly signal: AbortSignal;
  readonly now: () => Date;
  /** `YYYY-MM` in local time. */
  readonly month: () => Promise<string>;
  readonly report: (event: BackupEvent) => void;
}

export function backup(options: BackupOptions, context: BackupContext): Promise<BackupResult> {
  return unwinding(async (unwind) => {
    const session = await openVm({ ...options, what: `backup into ${options.target}` }, unwind);
    const identity = identityOf(session.state.machine, options.label);
    const month = options.monthly ? await context.month() : '';
    const target = targetFolder(resolve(options.target), options.monthly, identity, () => month);
    const warnings: string[] = [];
    const run: Run = {
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

/** What every stage of one run shares. */
interface Run {
  readonly options: BackupOptions;
  readonly context: BackupContext;
  readonly session: VmSession;
  readonly identity: VmIdentity;
  readonly target: string;
  readonly attempt: string;
  readonly warn: (text: string) => void;
  /** Aborts on a signal to the tool or when a lock is lost. */
  readonly signal: AbortSignal;
}

type Outcome = Omit<BackupResult, 'warnings'>;

/** `--dry-run`: everything that is decided, nothing that is done. */
async function rehearse(run: Run): Promise<Outcome> {
  const state = await readTarget(run.target, run.options.monthly);
  refuseOtherVm(state, run.identity, run.session.state.disks);
  const repairs = await observeRepairs(state, run.session.state);
  const { plan } = await plannedRun(run, state, run.session.state);
  return { target: run.target, plan, repairs, point: null, freeze: null, transactionMs: null };
}

async function perform(run: Run, unwind: Unwind): Promise<Outcome> {
  const { options, session, target, context } = run;
  const qemuUser = await userOfQemu(session.endpoint);
  const staging = new Staging(target, qemuUser ? { owner: qemuUser } : {});
  unwind.defer(() => staging.undo());
  await staging.makeTarget();
  const lock = await lockTarget(target, {
    breakLock: options.breakLock,
    what: `backup of ${describeEndpoint(session.endpoint)}`,
  });
  unwind.defer(() => lock.release());
  const locked: Run = { ...run, signal: AbortSignal.any([run.signal, lock.signal]) };

  const state = await readTarget(target, options.monthly);
  refuseOtherVm(state, run.identity, session.state.disks);
  const { vm, report } = await repair(session.client, state, session.state);
  report.warnings.forEach(run.warn);
  if (report.actions.length > 0) context.report({ kind: 'repaired', actions: report.actions });

  const planned = await plannedRun(locked, state, vm);
  const done = await attemptPoint(locked, planned, staging, vm, qemuUser);
  staging.keep();
  await tidyUp(locked, done.catalog, state, planned.plan);
  return { target, plan: planned.plan, repairs: report.actions, ...done };
}

// --- plan ----------------------------------------------------------------------------------------------------------

interface Planned {
  readonly plan: BackupPlan;
  readonly targetId: string;
  readonly catalog: Catalog | undefined;
}

async function plannedRun(run: Run, state: TargetState, vm: VmState): Promise<Planned> {
  const { options, context, target, attempt } = run;
  const { catalog } = state;
  const targetId = catalog?.targetId ?? randomBytes(8).toString('hex');
  const known = recognise(catalog, vm.disks);
  const [files, brokenLines] = await Promise.all([
    listFiles(
      target,
      known.map(({ id }) => id),
    ),
    checkParents(target, catalog, known),
  ]);
  const plan = planBackup({
    request: options,
    vm,
    known,
    catalog,
    targetId,
    attempt,
    nowSeconds: Math.floor(context.now().getTime() / 1000),
    files,
    brokenLines,
  });
  plan.warnings.forEach(run.warn);
  context.report({ kind: 'planned', target, plan });
  return { plan, targetId, catalog };
}

/** Looks at the files that each would-be parent needs; the result says why one cannot be built on. */
async function checkParents(
  target: string,
  catalog: Catalog | undefined,
  known: readonly KnownSource[],
): Promise<ReadonlyMap<string, string>> {
  const broken = new Map<string, string>();
  const chain = currentChain(catalog);
  if (!catalog || chain === undefined) return broken;
  const parents = known.flatMap(({ id }) => [latestFile(catalog, id, chain), latestFull(catalog, id, chain)]);
  await Promise.all(
    [...new Set(parents)].map(async (parent) => {
      if (!parent) return;
      const key = `${parent.disk}/${parent.file}`;
      const line = lineOf(catalog, parent);
      if ('missing' in line) return void broken.set(key, `${line.missing} is missing`);
      const merging = line.files.find(({ state }) => state === 'merging');
      if (merging) return void broken.set(key, `a rebase of ${merging.file} was interrupted`);
      const checked = await checkLine(target, line.files);
      if (!checked.ok) broken.set(key, `${checked.file}: ${checked.why}`);
    }),
  );
  return broken;
}

// --- attempt -------------------------------------------------------------------------------------------------------

interface Done {
  readonly catalog: Catalog;
  readonly point: Point;
  readonly freeze: Freeze | null;
  readonly transactionMs: number;
}

/** Journal, staging, transaction, jobs, seal. A failure before the commit point drops the attempt's own traces. */
async function attemptPoint(
  run: Run,
  planned: Planned,
  staging: Staging,
  vm: VmState,
  qemuUser: SocketOwner | undefined,
): Promise<Done> {
  const { options, session, context } = run;
  const { plan } = planned;
  run.signal.throwIfAborted();
  const guard = await startGuard(run, vm);
  try {
    await writeJournal(run.target, journalOf(run, plan, guard !== null));
    const compressionType = options.compress ? await compressionTypeOf(session.client) : null;
    const staged = await stagePoint(session.client, staging, plan.disks, { compressionType, qemuUser });
    run.signal.throwIfAborted();
    const instant = await takePoint(session.client, staged, guard, {
      speed: options.speedLimit,
      compress: options.compress,
      timeoutMs: TRANSACTION_TIMEOUT_MS,
      now: context.now,
      requireFreeze: options.quiesce === 'require',
      warn: run.warn,
    });
    context.report({ kind: 'started', instant });
    const outcomes = await followJobs(run, plan);
    context.report({ kind: 'sealing' });
    const sealed = await sealPoint(staging, staged, {
      target: run.target,
      targetId: planned.targetId,
      tool: options.tool,
      catalog: planned.catalog,
      plan,
      attempt: run.attempt,
      identity: run.identity,
      vm,
      instant,
      outcomes,
      compressed: options.compress,
      digests: options.digests,
      signal: run.signal,
    });
    return { ...sealed, freeze: instant.freeze, transactionMs: instant.transactionMs };
  } catch (error) {
    throw await undone(run, error);
  } finally {
    await guard?.release();
  }
}

/** Milliseconds until the transaction's outcome counts as unknown; less than the guard's limit. */
const TRANSACTION_TIMEOUT_MS = 9_000;

function journalOf(run: Run, plan: BackupPlan, freezes: boolean): Journal {
  return {
    schema: CATALOG_SCHEMA,
    attempt: run.attempt,
    startedAt: run.context.now().toISOString(),
    what: `backup --level ${run.options.level}`,
    monitor: describeEndpoint(run.session.endpoint),
    vm: run.identity,
    disks: plan.disks.map(({ disk, newBitmap, job, file }) => ({ disk, bitmap: newBitmap?.name ?? null, job, file })),
    madeFolders: plan.disks.map(({ disk }) => disk),
    freezes: freezes && run.options.agent ? describeEndpoint(run.options.agent) : null,
    stops: false,
  };
}

/** The guard for the freeze, ready and connected; null where nothing is frozen. */
async function startGuard(run: Run, vm: VmState): Promise<FreezeGuard | null> {
  const { quiesce, agent, freezeTimeoutMs, freezeLimitMs } = run.options;
  if (quiesce === 'no') return null;
  const why = !vm.running
    ? `the VM is not running (${vm.status})`
    : agent
      ? undefined
      : 'no agent socket was given (--agent-socket)';
  if (why === undefined && agent) {
    try {
      return await FreezeGuard.start({ agent, freezeTimeoutMs, freezeLimitMs, signal: run.signal });
    } catch (error) {
      return unfrozen(run, messageOf(error), error);
    }
  }
  return unfrozen(run, why ?? '', undefined);
}

function unfrozen(run: Run, why: string, cause: unknown): null {
  run.signal.throwIfAborted();
  if (run.options.quiesce === 'require') {
    throw new QmpBackupError('failed', `--quiesce=require: the guest cannot be frozen: ${why}`, {
      cause,
      hint: 'Nothing was changed. --quiesce alone would go on and mark the point crash.',
    });
  }
  run.warn(`the guest cannot be frozen: ${why}; the point is marked crash`);
  return null;
}

async function followJobs(run: Run, plan: BackupPlan): Promise<readonly (JobOutcome & { durationMs: number })[]> {
  const begun = performance.now();
  const ended = new Map<string, number>();
  const diskOf = new Map(plan.disks.map(({ job, disk }) => [job, disk]));
  const onProgress = (jobs: readonly JobState[]): void => {
    for (const { id, status } of jobs) {
      if (status === 'concluded' && !ended.has(id)) ended.set(id, performance.now() - begun);
    }
    run.context.report({
      kind: 'progress',
      disks: jobs.map(({ id, current, total }) => ({ disk: diskOf.get(id) ?? id, done: current, total })),
    });
  };
  const outcomes = await watchJobs(
    run.session.client,
    plan.disks.map(({ job }) => job),
    { signal: run.signal, intervalMs: run.options.progressIntervalMs, onProgress },
  );
  run.signal.throwIfAborted();
  const failed = outcomes.filter(({ error }) => error !== null);
  if (failed.length > 0) {
    // Those that we cancelled because another failed are not what the reader has to hear of first.
    const cause = failed.find(({ error }) => error !== 'Operation canceled') ?? failed[0];
    throw new QmpBackupError('failed', `the backup of ${diskOf.get(cause?.job ?? '')} failed: ${cause?.error}`, {
      hint: 'No point was made and no change is lost: the next run copies it all.',
    });
  }
  return outcomes.map((outcome) => ({ ...outcome, durationMs: ended.get(outcome.job) ?? 0 }));
}

/**
 * The undo of a failed attempt is the same repair that the next run would make. Where it cannot be made now, the
 * journal stays and the next run makes it.
 */
async function undone(run: Run, error: unknown): Promise<unknown> {
  const { client } = run.session;
  try {
    const state = await readTarget(run.target, run.options.monthly);
    const { report } = await repair(client, state, await inspectVm(client));
    report.warnings.forEach(run.warn);
  } catch (failure) {
    run.warn(`the run could not be undone now (${messageOf(failure)}); the next run does it by the journal`);
  }
  if (error instanceof QmpConnectionLost) {
    return new QmpBackupError('failed', `the VM's monitor was lost during the backup: ${error.message}`, {
      cause: error,
      hint: 'No point was made and no change is lost. Run it again when the VM is up.',
    });
  }
  return error;
}

// --- after the commit point ----------------------------------------------------------------------------------------

/**
 * The point is sealed, so nothing here can fail the run: what cannot be done now, the next run does by the journal.
 * Keeps per disk the bitmaps of its latest file and of its latest FULL.
 */
async function tidyUp(run: Run, catalog: Catalog, { olderMonths }: TargetState, plan: BackupPlan): Promise<void> {
  const { client } = run.session;
  try {
    await Promise.all(plan.disks.map(({ job }) => dismissJob(client, job)));
    const { disks } = await inspectVm(client);
    for (const action of retire({ catalog, olderMonths, sources: disks })) {
      if (action.kind === 'remove-bitmap') await removeBitmap(client, action.node, action.bitmap);
    }
    await removeJournal(run.target);
  } catch (error) {
    run.warn(`the point is sealed, but not all was tidied up (${messageOf(error)}); the next run does it`);
  }
}

/** Files that root makes for a QEMU that runs as somebody else must belong to that user. */
async function userOfQemu(endpoint: Endpoint): Promise<SocketOwner | undefined> {
  if (endpoint.kind !== 'unix' || process.getuid?.() !== 0) return undefined;
  return ownerOfSocket(endpoint.path);
}
