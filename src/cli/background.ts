import { spawn } from 'node:child_process';
import { letGoOfOutput } from './child-run.js';

/**
 * A command that goes on in the background: this program is started again, with the same arguments, in a session of its
 * own. That process says what there is to say, then lets go of the output, and the command that was typed ends.
 */
const MARK = 'QMPBACKUP_BACKGROUND';
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** Whether this is the process that goes on. */
export function isInBackground(): boolean {
  return process.env[MARK] !== undefined && process.send !== undefined;
}

/** In the process that goes on: ends like a SIGTERM where the command is gone before it was told. */
export function endWithStarter(): void {
  process.once('disconnect', () => process.kill(process.pid, 'SIGTERM'));
}

/** In the process that goes on, at its end: while it listens to that channel, node does not end. */
export function hearNoStarter(): void {
  process.removeAllListeners('disconnect');
  if (process.connected) process.disconnect();
}

/** In the process that goes on: what it was started for is done; the command ends with that. */
export async function leaveStarter(exitCode: number): Promise<void> {
  process.removeAllListeners('disconnect');
  await letGoOfOutput();
  // It holds no folder.
  process.chdir('/');
  if (!process.connected) return;
  await new Promise<void>((resolve) => process.send?.({ exitCode }, () => resolve()));
  process.disconnect();
}

/** In the command that was typed: its exit code, when the other process has left it, or ended. */
export async function goOnInBackground(): Promise<number> {
  const child = spawn(process.execPath, [...process.execArgv, ...process.argv.slice(1)], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    env: { ...process.env, [MARK]: '1' },
    detached: true,
  });
  const relays = SIGNALS.map((signal) => ({ signal, relay: () => void child.kill(signal) }));
  for (const { signal, relay } of relays) process.on(signal, relay);
  try {
    return await new Promise((resolve, reject) => {
      child.once('error', reject);
      child.once('message', (message) => resolve((message as { readonly exitCode: number }).exitCode));
      child.once('exit', (exitCode, signal) => resolve(exitCode ?? (signal === 'SIGINT' ? 130 : 143)));
    });
  } finally {
    for (const { signal, relay } of relays) process.removeListener(signal, relay);
    if (child.connected) child.disconnect();
    child.unref();
  }
}
