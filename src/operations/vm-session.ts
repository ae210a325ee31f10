import { realpath } from 'node:fs/promises';
import type { VmState } from '../domain/disk.js';
import { inspectVm, readUuid } from '../qemu/inspect.js';
import { QmpClient } from '../qmp/client.js';
import { describeEndpoint, type Endpoint } from '../qmp/endpoint.js';
import { lockVm } from '../repository/lock.js';
import { ownerOfSocket, type SocketOwner } from '../repository/peer.js';
import type { Unwind } from './unwind.js';

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
  readonly what: string;
  readonly trace?: ((direction: '>' | '<', message: unknown) => void) | undefined;
}

export async function openVm({ monitor, breakLock, what, trace }: VmAccess, unwind: Unwind): Promise<VmSession> {
  const lock = async (key: string): Promise<AbortSignal> => {
    const held = await lockVm(key, { breakLock, what });
    unwind.defer(() => held.release());
    return held.signal;
  };
  const signals = [await lock(await monitorKey(monitor))];
  const client = await connectMonitor(monitor, trace);
  unwind.defer(() => client.close());
  const owner = monitor.kind === 'unix' ? await ownerOfSocket(monitor.path) : undefined;
  const uuid = await readUuid(client);
  // A VM may have a second monitor, and a run through that one must not take our jobs for those of a dead run.
  if (owner) signals.push(await lock(`process ${owner.pid}`));
  if (uuid !== null) signals.push(await lock(`uuid ${uuid}`));
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
