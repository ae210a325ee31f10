import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { messageOf, QmpBackupError } from '../errors.js';
import { isLocal } from '../host/mounts.js';
import { put } from './output.js';

/**
 * Runs the program in a process of its own, for a target that may hang. A call on a hung mount keeps its thread, and
 * Node waits for its threads when it ends (20.20), for ever: so the part that touches the target says how it ended, and
 * the part that the user has started, which touches nothing, ends with that.
 */
const MARK = 'QMPBACKUP_APART';
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
/** How long the process may take to end by itself after it has said how, in milliseconds. */
const LAST_MS = 2_000;
/** Threads for calls on files; some may be lost to a hung mount, and those on other file systems have to go on. */
const THREADS = '16';

/** Whether this is the process that touches the target. */
export function isChildRun(): boolean {
  return process.env[MARK] !== undefined && process.send !== undefined;
}

/** In the process that touches the target: ends like a SIGTERM when the other one is gone. */
export function endWithParent(): void {
  process.once('disconnect', () => process.kill(process.pid, 'SIGTERM'));
}

/** In the process that touches the target: the last word. With nobody left to hear it, nobody would kill it either. */
export async function tellEnding(exitCode: number): Promise<void> {
  process.removeAllListeners('disconnect');
  // A reader that is slow is waited for, as by any program.
  await letGoOfOutput();
  process.once('disconnect', () => process.kill(process.pid, 'SIGKILL'));
  if (process.connected) process.send?.({ exitCode }, () => process.channel?.unref());
  else process.kill(process.pid, 'SIGKILL');
}

/**
 * A process in a call that nothing interrupts outlives SIGKILL, and holds its files open: whoever reads our output up to
 * its end (cron, a pipe) would wait for the target too. Resolves when all that was written is out, or cannot be.
 */
export async function letGoOfOutput(): Promise<void> {
  for (const stream of [process.stdout, process.stderr]) {
    await new Promise<void>((resolve) => stream.write('', () => resolve()));
    try {
      closeSync(stream.fd);
    } catch (error) {
      // Linux has let go of it all the same; a file on a network says only now what it has not kept.
      put(process.stderr, `warning: what was said may not be kept: ${messageOf(error)}\n`);
    }
    // Takes the number that has become free: what is opened next shall not be taken for our output.
    openSync('/dev/null', 'w');
  }
}

/** Whether this process may not touch the target, and has left the command to another one, which has ended. */
export async function hasRunAsChild(target: string): Promise<boolean> {
  if (isChildRun() || isLocal(target)) return false;
  process.exitCode = await runApart();
  return true;
}

/** How long what was told to end may take to do so, in milliseconds. */
const ENOUGH_MS = 10_000;

/**
 * For a run that loses nothing whenever it is killed, and so needs no deadline of its own: told to end, it is given up where the
 * target keeps it from doing so.
 *
 * @throws QmpBackupError `interrupted`
 */
export function endsWhenTold<T>(run: Promise<T>, signal: AbortSignal): Promise<T> {
  if (!isChildRun()) return run;
  return new Promise((resolve, reject) => {
    const giveUp = (): void =>
      reject(
        new QmpBackupError(
          'interrupted',
          `the target does not answer: ended without it, ${ENOUGH_MS / 1000} s after the signal`,
          {
            hint: 'Nothing that counts is lost. Run it again when the target answers: it finishes what was begun.',
          },
        ),
      );
    const giveUpSoon = (): void => void setTimeout(giveUp, ENOUGH_MS).unref();
    if (signal.aborted) giveUpSoon();
    else signal.addEventListener('abort', giveUpSoon);
    run.then(resolve, reject);
  });
}

/** Starts this program again, with the same arguments, and gives its exit code. */
async function runApart(): Promise<number> {
  const child = spawn(process.execPath, [...process.execArgv, ...process.argv.slice(1)], {
    stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
    env: { ...process.env, [MARK]: '1', UV_THREADPOOL_SIZE: THREADS },
  });
  const relays = SIGNALS.map((signal) => ({ signal, relay: () => void child.kill(signal) }));
  for (const { signal, relay } of relays) process.on(signal, relay);
  try {
    return await endingOf(child);
  } finally {
    for (const { signal, relay } of relays) process.removeListener(signal, relay);
    // It may never end: a process in a call that nothing interrupts cannot even be killed.
    if (child.connected) child.disconnect();
    child.unref();
  }
}

function endingOf(child: ChildProcess): Promise<number> {
  return new Promise((resolve, reject) => {
    let told: number | undefined;
    child.once('error', reject);
    child.once('exit', (exitCode, signal) => resolve(told ?? exitCode ?? (signal === 'SIGINT' ? 130 : 143)));
    child.once('message', (message) => {
      told = (message as { readonly exitCode: number }).exitCode;
      const code = told;
      setTimeout(() => {
        child.kill('SIGKILL');
        resolve(code);
      }, LAST_MS).unref();
    });
  });
}
