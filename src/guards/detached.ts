/**
 * A guard's process as its owner has it. It leads a session of its own, so that what ends the owner does not end it; it
 * gets its task as JSON behind its program's name, hears messages on its stdin and says its own on its stdout. The end
 * of its stdin tells it that its owner has released it, or is gone, however it died.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { messageOf, QmpBackupError } from '../errors.js';
import { formatJsonLine } from '../qmp/json-lines.js';
import { byDeadline, deferred } from './deferred.js';
import { type Handlers, type Message, messageReader } from './messages.js';

export interface DetachedOptions<From extends Message> {
  /** Path or file URL of the guard's program. */
  readonly program: string | URL;
  readonly task: object;
  /** What comes of each of its messages but `ready`; a guard without them says nothing. */
  readonly on?: Handlers<From>;
  /** Once: it has said all that it ever will, or could not be started. */
  readonly onLost?: (why: string) => void;
  /** Whether the end of its stderr is among the reasons for its loss. */
  readonly keepStderr?: boolean;
  /** Seconds that a shell waits before it becomes the guard, deaf to the same signals, but for the moments in which Node starts. */
  readonly delayS?: number;
  readonly cwd?: string;
}

const START_MS = 10_000;
const STDERR_KEPT = 2_000;

export class DetachedGuard<To extends Message = never, From extends Message = never> {
  /** Its process has ended, or could not be started. */
  readonly exited: Promise<void>;
  readonly #child: ChildProcess;
  readonly #ready = deferred<void>();
  readonly #onLost: ((why: string) => void) | undefined;
  #lost = false;
  #stderr = '';

  constructor({ program, task, on, onLost, keepStderr = false, delayS, cwd }: DetachedOptions<From>) {
    const path = typeof program === 'string' ? program : fileURLToPath(program);
    const node = [process.execPath, path, JSON.stringify(task)] as const;
    const [name, ...args] = delayS === undefined ? node : afterDelay(delayS, node);
    const child = spawn(name, args, {
      // Options of ours for Node, as for a debugger's port, are not for it.
      env: { ...process.env, NODE_OPTIONS: undefined },
      cwd,
      detached: true,
      stdio: ['pipe', on ? 'pipe' : 'ignore', keepStderr ? 'pipe' : 'ignore'],
    });
    this.#child = child;
    this.#onLost = onLost;
    this.exited = new Promise((resolve) => {
      child.once('exit', () => resolve());
      child.on('error', (error) => {
        resolve();
        this.#lose(error.message);
      });
    });
    // EPIPE: the guard is gone, which the end of its stdout tells too, with all that it had to say before.
    child.stdin?.on('error', () => undefined);
    child.stderr?.on('data', (chunk: Buffer) => this.#keep(chunk.toString()));
    if (on) this.#listen(messageReader({ ready: () => this.#ready.resolve(), ...on }));
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Until it has said that it listens. Throws `failed`, and does not leave it behind, where it does not. */
  async ready(guarded: string): Promise<void> {
    const late = (): Error => new Error(`it said nothing for ${START_MS / 1_000} s`);
    try {
      await byDeadline(START_MS, this.#ready.promise, late);
    } catch (cause) {
      this.kill();
      const words = `the process that guards ${guarded} did not start: ${messageOf(cause)}`;
      throw new QmpBackupError('failed', words, { cause });
    }
  }

  /** Nothing is said to a guard that is gone. */
  send(message: To): void {
    if (this.#child.stdin?.writable) this.#child.stdin.write(formatJsonLine(message));
  }

  /** It does what is left to do, and ends. */
  release(): void {
    this.#child.stdin?.end();
  }

  /** While nobody waits for it, it does not keep alive an owner that has nothing else to do. */
  unref(): void {
    const { stdin, stdout, stderr } = this.#child;
    this.#child.unref();
    for (const pipe of [stdin, stdout, stderr]) if (pipe instanceof Socket) pipe.unref();
  }

  /** What it says from now on is not heard, nor its end waited for. */
  leave(): void {
    this.#child.unref();
    this.#child.stdout?.destroy();
  }

  /** With what it has started. */
  kill(): void {
    const { pid, exitCode, signalCode } = this.#child;
    if (pid === undefined || exitCode !== null || signalCode !== null) return;
    try {
      process.kill(-pid, 'SIGKILL');
    } catch (error) {
      // It has been killed just now.
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
    }
  }

  #listen(read: (chunk: Buffer) => void): void {
    this.#child.stdout?.on('data', (chunk: Buffer) => {
      try {
        read(chunk);
      } catch (error) {
        // It has gone mad. As it may hold what nobody else undoes, it is not killed.
        this.#keep(messageOf(error));
        this.release();
      }
    });
    this.#child.stdout?.on('error', () => this.release());
    this.#child.stdout?.on('close', () => this.#lose('its process ended'));
  }

  #lose(what: string): void {
    if (this.#lost) return;
    this.#lost = true;
    const why = [what, this.#stderr.trim()].filter(Boolean).join(': ');
    this.#ready.reject(new Error(why));
    this.#onLost?.(why);
  }

  #keep(text: string): void {
    this.#stderr = `${this.#stderr}${text}`.slice(-STDERR_KEPT);
  }
}

function afterDelay(seconds: number, program: readonly [string, ...string[]]): readonly [string, ...string[]] {
  return ['/bin/sh', '-c', `trap '' INT TERM HUP; sleep ${seconds}; exec "$@"`, 'sh', ...program];
}
