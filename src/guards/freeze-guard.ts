/**
 * The parent's side of a freeze: starts the guard process, tells it what to do, and hears what became of the guest. If
 * the guard is gone before it said that the guest is thawed, this side thaws by itself; if the guard hangs, it is
 * killed first. One guard serves one freeze. Always call `release()` in the end.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { Socket } from 'node:net';
import type { Readable, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { messageOf, QmpBackupError } from '../errors.js';
import type { FreezeStatus } from '../guest-agent/client.js';
import { fromPlainError, GuestAgentError, GuestNotThawed } from '../guest-agent/errors.js';
import { thawNow } from '../guest-agent/thaw.js';
import type { Endpoint } from '../qmp/endpoint.js';
import { LineSplitter } from '../qmp/json-lines.js';
import { guardEnvironment } from './environment.js';
import {
  formatMessage,
  type FreezeTimeline,
  type FromGuard,
  type GuardLimits,
  parseFromGuard,
  type ToGuard,
} from './freeze-guard-messages.js';

export { thawNow };

export interface FreezeGuardOptions extends Partial<GuardLimits> {
  readonly agent: Endpoint;
  /** Ends start() and freeze(); the guest is thawed all the same. */
  readonly signal?: AbortSignal | undefined;
  /** Path or file URL of the guard's program. */
  readonly program?: string | URL | undefined;
}

export interface ThawReport {
  readonly confirmed: true;
  /** `request`: when asked to · `limit`: the freeze limit was over · `guard`: another cause of its own · `parent`: the guard was gone. */
  readonly thawedBy: 'request' | 'limit' | 'guard' | 'parent';
  /** From the agent's answer to the freeze (its request, if there was none) to its answer to the thaw. */
  readonly frozenForMs: number;
  /** Missing if the guard was gone. */
  readonly timeline: FreezeTimeline | undefined;
}

export interface FinishReport extends ThawReport {
  readonly thawed: true;
  /** What the agent said just before the thaw. Only `frozen` proves that the transaction saw a frozen guest. */
  readonly statusAfterTransaction: FreezeStatus | 'unknown';
  /** From the freeze's answer (its request, if there was none) to the thaw's request; longer if the guard was gone. */
  readonly freezeAnswerToThawRequestMs: number;
}

const DEFAULTS: GuardLimits = {
  freezeTimeoutMs: 60_000,
  freezeLimitMs: 10_000,
  thawTimeoutMs: 30_000,
  connectTimeoutMs: 5_000,
};

/** What the guard may need for itself beyond the agent's deadlines: its start, a busy machine. */
const MARGIN_MS = 5_000;
const GUARD_PROGRAM = new URL('./freeze-guard-main.js', import.meta.url);

type Ended = Extract<FromGuard, { type: 'thawed' | 'not-thawed' }> | { readonly type: 'lost'; readonly why: string };

export class FreezeGuard {
  readonly #agent: Endpoint;
  readonly #limits: GuardLimits;
  readonly #signal: AbortSignal | undefined;
  readonly #child: ChildProcess;
  readonly #stdin: Writable;
  readonly #ready = deferred<string>();
  readonly #frozen = deferred<number>();
  readonly #exited = deferred<undefined>();
  /** The last word about the freeze: of the guard, or of this side after it. Rejects with GuestNotThawed. */
  readonly #outcome = deferred<FinishReport>();
  readonly #thawing = deferred<undefined>();
  #status = deferred<FreezeStatus>();
  #state: 'idle' | 'freezing' | 'frozen' | 'over' = 'idle';
  #freezeRequestedAt: number | undefined;
  #freezeAnsweredAt: number | undefined;
  #freezeError: QmpBackupError | undefined;
  #stderr = '';
  #failureWasTold = false;

  private constructor(options: FreezeGuardOptions) {
    const { agent, signal, program = GUARD_PROGRAM, ...limits } = options;
    this.#agent = agent;
    this.#signal = signal;
    this.#limits = withDefaults(limits);
    const path = typeof program === 'string' ? program : fileURLToPath(program);
    const env = guardEnvironment(process.env);
    const child = spawn(process.execPath, [path], { env, detached: true, stdio: ['pipe', 'pipe', 'pipe'] });
    this.#child = child;
    this.#stdin = child.stdin;
    this.#listen(child.stdin, child.stdout, child.stderr);
  }

  /**
   * A guard that is connected, in step with the agent, and sure that the agent can freeze. Throws GuestAgentError
   * (also `no-freeze`, `already-frozen`), or an `interrupted` error by the signal.
   */
  static async start(options: FreezeGuardOptions): Promise<FreezeGuard> {
    if (options.signal?.aborted === true) throw interrupted('the start of the freeze guard', options.signal);
    const guard = new FreezeGuard(options);
    const { connectTimeoutMs } = guard.#limits;
    const onAbort = (): void => {
      guard.#ready.reject(interrupted('the start of the freeze guard', options.signal));
    };
    options.signal?.addEventListener('abort', onAbort, { once: true });
    try {
      guard.#send({ type: 'start', agent: options.agent, ...guard.#limits });
      // Connection, guest-info, and the status where it matters.
      await guard.#within(3 * connectTimeoutMs + MARGIN_MS, guard.#ready.promise);
      return guard;
    } catch (error) {
      await guard.release();
      throw error;
    } finally {
      options.signal?.removeEventListener('abort', onAbort);
    }
  }

  /** The guard's process. */
  get pid(): number | undefined {
    return this.#child.pid;
  }

  /**
   * Freezes, once. If that fails in any way the guest has been thawed again, and the agent has confirmed it, before
   * this throws GuestAgentError (or `interrupted`); GuestNotThawed if it could not be confirmed.
   */
  async freeze(): Promise<{ readonly fileSystems: number }> {
    if (this.#freezeRequestedAt !== undefined) throw new QmpBackupError('failed', 'a freeze guard freezes only once');
    if (this.#state === 'over') await this.#outcome.promise;
    if (this.#signal?.aborted === true) throw interrupted('the freeze', this.#signal);
    this.#state = 'freezing';
    this.#freezeRequestedAt = performance.now();
    const onAbort = (): void => {
      this.#freezeError ??= interrupted('the freeze', this.#signal);
      this.#send({ type: 'thaw' });
    };
    this.#signal?.addEventListener('abort', onAbort, { once: true });
    try {
      this.#send({ type: 'freeze' });
      const { freezeTimeoutMs, thawTimeoutMs } = this.#limits;
      const outcome = this.#outcome.promise.then(() => undefined);
      const deadlineMs = freezeTimeoutMs + thawTimeoutMs + MARGIN_MS;
      const fileSystems = await this.#within(deadlineMs, Promise.race([this.#frozen.promise, outcome]));
      if (fileSystems !== undefined) return { fileSystems };
      throw this.#freezeError ?? new GuestAgentError('lost', 'the freeze ended before it was answered');
    } catch (error) {
      if (error instanceof GuestNotThawed) this.#failureWasTold = true;
      throw error;
    } finally {
      this.#signal?.removeEventListener('abort', onAbort);
    }
  }

  /** Whether the freeze still holds; `thawed` also after the guard has thawed by itself. Throws GuestAgentError. */
  async status(): Promise<FreezeStatus> {
    const outcome = this.#outcome.promise.then((): FreezeStatus => 'thawed');
    if (this.#state === 'over') return outcome;
    this.#status = deferred<FreezeStatus>();
    this.#send({ type: 'status' });
    return this.#within(
      this.#limits.connectTimeoutMs + MARGIN_MS,
      Promise.race([this.#status.promise, outcome]),
      () => new GuestAgentError('timeout', 'the guard did not tell the status in time'),
    );
  }

  /** Right after the transaction: the agent's status, then the thaw at once, confirmed. Throws GuestNotThawed. */
  finish(): Promise<FinishReport> {
    return this.#endFreeze('finish');
  }

  /** Thaws without asking first, confirmed. Throws GuestNotThawed. */
  thaw(): Promise<ThawReport> {
    return this.#endFreeze('thaw');
  }

  /** Ends the guard, thawing first if need be. Throws GuestNotThawed unless an earlier call already has. */
  async release(): Promise<void> {
    try {
      if (this.#freezeRequestedAt !== undefined && !this.#failureWasTold) await this.#endFreeze('thaw');
    } finally {
      this.#stdin.end();
      await this.#exit();
    }
  }

  async #endFreeze(type: 'finish' | 'thaw'): Promise<FinishReport> {
    if (this.#freezeRequestedAt === undefined) {
      throw new QmpBackupError('failed', 'the guest was not frozen by this guard');
    }
    if (this.#state !== 'over') this.#send({ type });
    const { freezeTimeoutMs, thawTimeoutMs } = this.#limits;
    const freezeMs = this.#state === 'freezing' ? freezeTimeoutMs : 0;
    try {
      // A guard that does not even begin is stopped or stuck, and the guest waits.
      await this.#within(MARGIN_MS, Promise.race([this.#thawing.promise, this.#outcome.promise]));
      return await this.#within(freezeMs + thawTimeoutMs + MARGIN_MS, this.#outcome.promise);
    } catch (error) {
      this.#failureWasTold = true;
      throw error;
    }
  }

  #listen(stdin: Writable, stdout: Readable, stderr: Readable): void {
    const child = this.#child;
    // A call under way holds the process by its deadline; an idle guard must not keep a parent that forgot it.
    child.unref();
    for (const pipe of [stdin, stdout, stderr]) if (pipe instanceof Socket) pipe.unref();
    // EPIPE: the guard is gone, which the end of its stdout tells too, with all that it had to say before.
    stdin.on('error', () => undefined);
    stderr.on('data', (chunk: Buffer) => (this.#stderr = `${this.#stderr}${chunk.toString()}`.slice(-2_000)));
    const splitter = new LineSplitter();
    stdout.on('data', (chunk: Buffer) => {
      try {
        const { lines, fault } = splitter.push(chunk);
        for (const line of lines) this.#onMessage(parseFromGuard(line));
        if (fault !== undefined) throw fault;
      } catch (error) {
        this.#stderr += messageOf(error);
        child.kill('SIGKILL');
      }
    });
    stdout.on('error', () => child.kill('SIGKILL'));
    stdout.on('close', () => this.#onEnded({ type: 'lost', why: 'its process ended' }));
    child.on('error', (error) => {
      this.#exited.resolve(undefined);
      this.#onEnded({ type: 'lost', why: error.message });
    });
    child.on('exit', () => this.#exited.resolve(undefined));
  }

  #onMessage(message: FromGuard): void {
    switch (message.type) {
      case 'ready':
        this.#ready.resolve(message.agentVersion);
        break;
      case 'not-ready':
        this.#ready.reject(fromPlainError(message.error));
        break;
      case 'frozen':
        this.#freezeAnsweredAt = performance.now();
        if (this.#state === 'freezing') this.#state = 'frozen';
        this.#frozen.resolve(message.fileSystems);
        break;
      case 'status':
        this.#status.resolve(message.status);
        break;
      case 'no-status':
        this.#status.reject(fromPlainError(message.error));
        break;
      case 'thawing':
        this.#thawing.resolve(undefined);
        break;
      case 'thawed':
      case 'not-thawed':
        this.#onEnded(message);
        break;
    }
  }

  #onEnded(ended: Ended): void {
    if (this.#state === 'over') return;
    const before = this.#state;
    this.#state = 'over';
    if (ended.type === 'lost') {
      const words = `the freeze guard is gone: ${[ended.why, this.#stderr.trim()].filter(Boolean).join(': ')}`;
      const error = new GuestAgentError('lost', words, { hint: 'run the command again' });
      this.#ready.reject(error);
      if (before !== 'idle') {
        void this.#thawInPlace(error);
        return;
      }
      this.#outcome.reject(error);
    }
    if (ended.type === 'thawed') {
      if (ended.freezeError !== undefined) this.#freezeError ??= fromPlainError(ended.freezeError);
      this.#outcome.resolve(reportOf(ended));
    }
    if (ended.type === 'not-thawed') this.#outcome.reject(new GuestNotThawed(this.#agent, fromPlainError(ended.error)));
  }

  /** The guard died with the guest frozen, or perhaps frozen. */
  async #thawInPlace(why: GuestAgentError): Promise<void> {
    this.#freezeError ??= why;
    const { freezeTimeoutMs, thawTimeoutMs } = this.#limits;
    const start = this.#freezeRequestedAt ?? performance.now();
    const freezeMs = this.#freezeAnsweredAt === undefined ? freezeTimeoutMs : 0;
    try {
      await thawNow(this.#agent, { timeoutMs: freezeMs + thawTimeoutMs });
      const frozenForMs = performance.now() - (this.#freezeAnsweredAt ?? start);
      this.#outcome.resolve({
        confirmed: true,
        thawed: true,
        thawedBy: 'parent',
        statusAfterTransaction: 'unknown',
        freezeAnswerToThawRequestMs: frozenForMs,
        frozenForMs,
        timeline: undefined,
      });
    } catch (error) {
      this.#outcome.reject(error);
    }
  }

  /** A guard that misses its deadline hangs: it is killed, and what follows is what follows its death. */
  async #within<T>(deadlineMs: number, promise: Promise<T>, giveUp?: () => Error): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    const deadline = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        if (giveUp !== undefined) reject(giveUp());
        else this.#child.kill('SIGKILL');
      }, deadlineMs);
    });
    // Holds the process while the killed guard's end is dealt with, which has deadlines of its own.
    const hold = setInterval(() => undefined, 1_000);
    try {
      return await Promise.race([promise, deadline]);
    } finally {
      clearTimeout(timer);
      clearInterval(hold);
    }
  }

  async #exit(): Promise<void> {
    const kill = setTimeout(() => this.#child.kill('SIGKILL'), MARGIN_MS);
    try {
      await this.#exited.promise;
    } finally {
      clearTimeout(kill);
    }
  }

  #send(message: ToGuard): void {
    if (this.#stdin.writable) this.#stdin.write(formatMessage(message));
  }
}

function reportOf(thawed: Extract<FromGuard, { type: 'thawed' }>): FinishReport {
  const { cause, statusBefore, timeline } = thawed;
  const answered = timeline.freezeAnsweredMs ?? 0;
  return {
    confirmed: true,
    thawed: true,
    thawedBy: cause === 'finish' || cause === 'thaw' ? 'request' : cause === 'limit' ? 'limit' : 'guard',
    // Only finish asks; where the guard thawed for a reason of its own the transaction may have met a thawed guest.
    statusAfterTransaction: cause === 'finish' ? statusBefore : cause === 'thaw' ? 'unknown' : 'thawed',
    freezeAnswerToThawRequestMs: timeline.thawRequestedMs - answered,
    frozenForMs: timeline.thawAnsweredMs - answered,
    timeline,
  };
}

function withDefaults(limits: Partial<GuardLimits>): GuardLimits {
  return {
    freezeTimeoutMs: limits.freezeTimeoutMs ?? DEFAULTS.freezeTimeoutMs,
    freezeLimitMs: limits.freezeLimitMs ?? DEFAULTS.freezeLimitMs,
    thawTimeoutMs: limits.thawTimeoutMs ?? DEFAULTS.thawTimeoutMs,
    connectTimeoutMs: limits.connectTimeoutMs ?? DEFAULTS.connectTimeoutMs,
  };
}

function interrupted(what: string, signal: AbortSignal | undefined): QmpBackupError {
  return new QmpBackupError('interrupted', `${what} was interrupted: ${messageOf(signal?.reason)}`);
}

interface Deferred<T> {
  readonly promise: Promise<T>;
  readonly resolve: (value: T) => void;
  readonly reject: (error: unknown) => void;
}

function deferred<T>(): Deferred<T> {
  let resolve: (value: T) => void = () => undefined;
  let reject: (error: unknown) => void = () => undefined;
  const promise = new Promise<T>((onResolve, onReject) => {
    resolve = onResolve;
    reject = onReject;
  });
  // Whoever waits gets the error; that nobody waits at the moment is no fault.
  promise.catch(() => undefined);
  return { promise, resolve, reject };
}
