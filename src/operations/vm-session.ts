import { realpath } from 'node:fs/promises';
import type { VmState } from '../domain/disk.js';
import { inspectVm } from '../qemu/inspect.js';
import { QmpClient } from '../qmp/client.js';
import { describeEndpoint, type Endpoint } from '../qmp/endpoint.js';
import { lockVm } from '../repository/lock.js';
import type { Unwind } from './unwind.js';

/** A VM that this run has to itself: its lock is held, its monitor is open, and it has been looked at once. */
export interface VmSession {
  readonly client: QmpClient;
  readonly endpoint: Endpoint;
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

export async function openVm(access: VmAccess, unwind: Unwind): Promise<VmSession> {
  const lock = await lockVm(await monitorKey(access.monitor), { breakLock: access.breakLock, what: access.what });
  unwind.defer(() => lock.release());
  const client = await connectMonitor(access.monitor, access.trace);
  unwind.defer(() => client.close());
  return { client, endpoint: access.monitor, state: await inspectVm(client), signal: lock.signal };
}

export function connectMonitor(monitor: Endpoint, trace?: VmAccess['trace']): Promise<QmpClient> {
  return QmpClient.connect(monitor, trace ? { trace } : {});
}

/** One key per monitor, however its path is spelled. A path that does not exist is left for `connect` to report. */
async function monitorKey(monitor: Endpoint): Promise<string> {
  if (monitor.kind === 'tcp') return describeEndpoint(monitor);
  return realpath(monitor.path).catch(() => monitor.path);
}
