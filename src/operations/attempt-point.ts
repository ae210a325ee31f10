import { resolve } from 'node:path';
import { CATALOG_SCHEMA, type Catalog, type Journal, type Point } from '../domain/catalog.js';
import type { VmState } from '../domain/disk.js';
import type { BackupPlan } from '../domain/plan.js';
import { messageOf, QmpBackupError } from '../errors.js';
import type { FreezeGuard } from '../guest-agent/freeze-guard.js';
import { readFeatures } from '../qemu/features.js';
import { inspectVm } from '../qemu/inspect.js';
import { describeEndpoint, type Endpoint } from '../qmp/endpoint.js';
import { QmpConnectionLost } from '../qmp/errors.js';
import { writeJournal } from '../repository/journal-file.js';
import type { SocketOwner } from '../repository/peer.js';
import type { Staging } from '../repository/staging.js';
import type { BackupRun } from './backup-run.js';
import { followJobs } from './follow-jobs.js';
import { readTarget } from './open-target.js';
import type { Planned } from './plan-run.js';
import { repair } from './repair.js';
import { sealPoint } from './seal-point.js';
import { stagePoint } from './stage-point.js';
import { type Freeze, takePoint } from './take-point.js';

export interface Done {
  readonly catalog: Catalog;
  readonly point: Point;
  readonly freeze: Freeze | null;
  readonly transactionMs: number;
}

/** Journal, staging, transaction, jobs, seal. A failure before the commit point drops the attempt's own traces. */
export async function attemptPoint(
  run: BackupRun,
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
    const compressionType = options.compress ? (await readFeatures(session.client)).compressionType : null;
    const staged = await stagePoint(session.client, staging, plan.disks, { compressionType, qemuUser });
    run.signal.throwIfAborted();
    const instant = await takePoint(session.client, staged, guard, {
      speed: options.speedLimit,
      compress: options.compress,
      timeoutMs: TRANSACTION_TIMEOUT_MS,
      now: context.now,
      requireFreeze: options.quiesce === 'require',
      signal: run.signal,
      warn: run.warn,
    });
    await guard?.release();
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
    // Also frees the agent's socket, which serves one client.
    await guard?.release().catch((failure: unknown) => run.warn(messageOf(failure)));
    throw await undone(run, error);
  }
}

/**
 * Milliseconds until the transaction's outcome counts as unknown. The guest does not wait for it: the guard thaws at its
 * own limit, and a transaction that ends well after that makes a crash point.
 */
const TRANSACTION_TIMEOUT_MS = 9_000;

function journalOf(run: BackupRun, plan: BackupPlan, freezes: boolean): Journal {
  return {
    schema: CATALOG_SCHEMA,
    attempt: run.attempt,
    startedAt: run.context.now().toISOString(),
    what: `backup --level ${run.options.level}`,
    monitor: addressOf(run.session.endpoint),
    vm: run.identity,
    disks: plan.disks.map(({ disk, newBitmap, job, file }) => ({ disk, bitmap: newBitmap?.name ?? null, job, file })),
    madeFolders: plan.disks.map(({ disk }) => disk),
    freezes: freezes && run.options.agent ? addressOf(run.options.agent) : null,
    stops: false,
  };
}

/** As a later run in another folder can use it. */
function addressOf(endpoint: Endpoint): string {
  return describeEndpoint(endpoint.kind === 'unix' ? { ...endpoint, path: resolve(endpoint.path) } : endpoint);
}

/** The guard for the freeze, ready and connected; null where nothing is frozen. */
async function startGuard(run: BackupRun, vm: VmState): Promise<FreezeGuard | null> {
  const { quiesce, agent, freezeTimeoutMs, freezeLimitMs } = run.options;
  if (quiesce === 'no') return null;
  if (!vm.running) return unfrozen(run, `the VM is not running (${vm.status})`);
  if (!agent) return unfrozen(run, 'no agent socket was given (--agent-socket)');
  try {
    // Loaded where a guest is frozen: start-up time, docs/decisions/0001.
    const { FreezeGuard } = await import('../guest-agent/freeze-guard.js');
    return await FreezeGuard.start({ agent, freezeTimeoutMs, freezeLimitMs, signal: run.signal });
  } catch (error) {
    if (!(error instanceof QmpBackupError)) throw error;
    return unfrozen(run, messageOf(error), error);
  }
}

function unfrozen(run: BackupRun, why: string, cause?: unknown): null {
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

/**
 * The undo of a failed attempt is the same repair that the next run would make. Where it cannot be made now, the
 * journal stays and the next run makes it.
 */
async function undone(run: BackupRun, error: unknown): Promise<unknown> {
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
