import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { QmpClient } from '../../src/qmp/client.js';
import { expectCli } from './cli.js';
import { connectMonitor } from './lab/monitor.js';
import { patient } from './patience.js';
import { afterTest } from './scenario.js';

/** What `boot --json` answers. */
export interface Booted {
  readonly pid: number;
  readonly point: string;
  readonly state: 'started' | 'already-running';
  readonly commandLine: readonly string[];
  readonly script: string;
  readonly monitor: string;
  readonly agent: string | null;
  readonly disks: readonly { readonly disk: string; readonly overlay: string; readonly leans: boolean }[];
}

/** `qmpbackup --json boot …` under software emulation. The VM is ended after the test. */
export async function boot(
  args: readonly string[],
  more: readonly string[] = [],
  env: NodeJS.ProcessEnv = {},
): Promise<Booted> {
  const result = await expectCli(0, ['--json', 'boot', ...args, '--', '-accel', 'tcg', ...more], {
    env: { NO_COLOR: '1', ...env },
  });
  const booted = result.json<Booted>();
  afterTest(() => endProcess(booted.pid, 'SIGKILL'));
  return booted;
}

/** The record of the VM that was last started from a folder. */
export async function recordIn(folder: string): Promise<{ readonly owner: { readonly pid: number } }> {
  return JSON.parse(await readFile(join(folder, 'boot.json'), 'utf8')) as { owner: { pid: number } };
}

export function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

/** Resolves when it is gone. */
export async function endProcess(pid: number, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
  const until = Date.now() + patient(30_000);
  if (isAlive(pid)) process.kill(pid, signal);
  while (isAlive(pid)) {
    if (Date.now() > until) throw new Error(`process ${pid} does not end`);
    await sleep(20);
  }
}

/** One conversation with its monitor, which is then free for the tool. */
export async function withMonitor<T>(
  { monitor }: Pick<Booted, 'monitor'>,
  body: (client: QmpClient) => Promise<T>,
): Promise<T> {
  const client = await connectMonitor(monitor, () => undefined);
  try {
    return await body(client);
  } finally {
    await client.close();
  }
}
