import { type ChildProcess, spawn } from 'node:child_process';
import { Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { thisProcess } from '../host/lock-owner.js';
import { guardEnvironment } from './environment.js';

/**
 * Ends the pull of a run that is gone, from a process of its own: a job that nobody ends goes on filling scratch images,
 * which libvirt does not bound, until there is no space left and the guest stands still.
 */
export interface PullGuardTask {
  /** URI for virsh; null is its default. */
  readonly connect: string | null;
  readonly uuid: string;
  /** Path of the job's NBD server, by which it is known. */
  readonly socket: string;
  /** Whether the guest ran before, and so goes on where a full scratch image has paused it. */
  readonly resumes: boolean;
  /** As of `LockOwner`. */
  readonly parent: { readonly pid: number; readonly startTime: string };
}

export interface PullGuard {
  /** Ends the guard: there is nothing left to do for it. Without this it acts as soon as this process has ended. */
  release(): void;
  /** Has it act now: this process can do no more. */
  handOver(): void;
}

const GUARD_PROGRAM = fileURLToPath(new URL('./pull-guard-main.js', import.meta.url));

/** Short runs are over by then, and are spared the start of Node: 90 ms of CPU beside half a second. */
const DELAY_S = 2;
/** Deaf to the signals that end a whole group, but for the moments in which Node starts. */
const WAITING = `trap '' INT TERM HUP; sleep ${DELAY_S}; exec "$@"`;

export function startPullGuard(
  task: Omit<PullGuardTask, 'parent'>,
  options: { readonly warn: (warning: string) => void },
): PullGuard {
  const { pid, processStartTime } = thisProcess('pull');
  const parent = { pid, startTime: processStartTime };
  const program = [process.execPath, GUARD_PROGRAM, JSON.stringify({ ...task, parent })];
  // It leads a group of its own, and holds no mount.
  const child = spawn('/bin/sh', ['-c', WAITING, 'sh', ...program], {
    env: guardEnvironment(process.env),
    cwd: '/',
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  // The next run ends the job then.
  child.on('error', ({ message }) => options.warn(`no process guards the backup job of the domain: ${message}`));
  // EPIPE: it was killed.
  child.stdin.on('error', () => undefined);
  child.unref();
  if (child.stdin instanceof Socket) child.stdin.unref();
  return { release: () => killGroup(child), handOver: () => void child.stdin.end() };
}

/** With the `sleep` of the shell. */
function killGroup(guard: ChildProcess): void {
  if (guard.pid === undefined || guard.exitCode !== null || guard.signalCode !== null) return;
  try {
    process.kill(-guard.pid, 'SIGKILL');
  } catch (error) {
    // It has been killed just now.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
