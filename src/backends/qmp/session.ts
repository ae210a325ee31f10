import { realpath } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { JobState, VmState } from '../../core/disk.js';
import { isOurJob } from '../../core/names.js';
import { QmpBackupError } from '../../errors.js';
import type { Unwind } from '../../flow/unwind.js';
import { ownerOfSocket, type SocketOwner } from '../../host/socket-owner.js';
import { inspectVm, readJobs, readUuid } from '../../qemu/inspect.js';
import { stopJobs } from '../../qemu/job-watch.js';
import { QmpClient } from '../../qmp/client.js';
import { describeEndpoint, type Endpoint } from '../../qmp/endpoint.js';
import { lockVm } from '../../repository/lock.js';
import type { Trace } from '../verb-context.js';
import { refuseLibvirtMonitor, refuseLibvirtQemu } from './refuse-libvirt.js';

/** A VM that this run has to itself: its lock is held, its monitor is open, and it has been looked at once. */
export interface VmSession {
  readonly client: QmpClient;
  readonly endpoint: Endpoint;
  /** The QEMU process behind a unix socket, where this user can see it. */
  readonly owner: SocketOwner | undefined;
  readonly state: VmState;
  /** Aborts when the VM's lock is lost. */
  readonly signal: AbortSignal;
}

export interface VmAccess {
  readonly monitor: Endpoint;
  readonly breakLock: boolean;
  /** What the run does, for whoever finds the VM locked. */
  readonly purpose: string;
  /** Jobs of a run that died are cancelled and get so many milliseconds to end; null leaves them alone. */
  readonly endDeadJobsMs: number | null;
  readonly trace?: Trace | undefined;
}

export async function openVm(
  { monitor, breakLock, purpose, endDeadJobsMs, trace }: VmAccess,
  unwind: Unwind,
): Promise<VmSession> {
  const lock = async (key: string): Promise<AbortSignal> => {
    const held = await lockVm(key, { breakLock, purpose });
    unwind.defer(() => held.release());
    return held.signal;
  };
  const owner = monitor.kind === 'unix' ? await ownerOfSocket(monitor.path) : undefined;
  await refuseLibvirtMonitor(monitor, owner);
  const signals = [await lock(await monitorKey(monitor))];
  const client = await connectMonitor(monitor, trace);
  unwind.defer(() => client.close());
  if (!owner) await refuseLibvirtQemu(client, monitor);
  const uuid = await readUuid(client);
  // A VM may have a second monitor, and a run through that one must not take our jobs for those of a dead run.
  if (owner) signals.push(await lock(`process ${owner.pid}`));
  if (uuid !== null) signals.push(await lock(`uuid ${uuid}`));
  await (endDeadJobsMs === null ? refuseHangingJobs(client) : endDeadJobs(client, endDeadJobsMs));
  const state = await inspectVm(client);
  return { client, endpoint: monitor, owner, state, signal: AbortSignal.any(signals) };
}

export function connectMonitor(monitor: Endpoint, trace?: VmAccess['trace']): Promise<QmpClient> {
  return QmpClient.connect(monitor, trace ? { trace } : {});
}

/** One key per monitor, however its path is spelled. A path that does not exist is left for `connect` to report. */
async function monitorKey(monitor: Endpoint): Promise<string> {
  if (monitor.kind === 'tcp') return describeEndpoint(monitor);
  return realpath(monitor.path).catch(() => monitor.path);
}

/** Milliseconds that a cancelled job may go on with what it has begun to write. */
export const ENDING_MS = 30_000;
/** Milliseconds for jobs of a dead run to be seen getting on. */
const GETTING_ON_MS = 5_000;

/**
 * Before QEMU is asked for its block nodes: it then looks at the file of each, on its main loop, and would hang with
 * the guest if the target of a running job hangs (seen with 7.2). Whoever holds the VM's lock owns what dead runs left.
 */
async function endDeadJobs(client: QmpClient, timeoutMs: number): Promise<void> {
  const unfinished = await unfinishedJobs(client);
  if (unfinished.length > 0) {
    await stopJobs(
      client,
      unfinished.map(({ id }) => id),
      timeoutMs,
    );
  }
}

/** For a look that changes nothing: jobs that get on have a target that answers. */
async function refuseHangingJobs(client: QmpClient): Promise<void> {
  const first = await copying(client);
  const waiting = new Set(first.keys());
  for (const until = performance.now() + GETTING_ON_MS; waiting.size > 0; await sleep(100)) {
    const now = await copying(client);
    for (const id of waiting) if (now.get(id) !== first.get(id)) waiting.delete(id);
    if (waiting.size === 0 || performance.now() < until) continue;
    throw new QmpBackupError('failed', `${[...waiting].join(', ')}: this job of a run that died does not get on`, {
      hint:
        'Its target may hang, and QEMU would hang with the guest if it were asked for its disks now. Look for the ' +
        'server or the network behind that target; the next backup ends the job.',
    });
  }
}

/** Progress of the jobs of ours that still copy, by id; one that is `pending` has copied all and waits to be ended. */
async function copying(client: QmpClient): Promise<ReadonlyMap<string, number>> {
  const jobs = (await unfinishedJobs(client)).filter(({ status }) => status !== 'pending');
  return new Map(jobs.map(({ id, current }) => [id, current]));
}

async function unfinishedJobs(client: QmpClient): Promise<readonly JobState[]> {
  return (await readJobs(client)).filter((job) => isOurJob(job) && job.status !== 'concluded');
}
