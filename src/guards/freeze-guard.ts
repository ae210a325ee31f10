/**
 * The owner's side of a freeze: starts the guard process, tells it what to do, and hears what became of the guest. If
 * the guard is gone before it said that the guest is thawed, this side thaws by itself; if the guard hangs, it is
 * killed first. One guard serves one freeze. Always call `release()` in the end.
 */
import * as v from 'valibot';
import { messageOf, QmpBackupError } from '../errors.js';
import type { FreezeStatus } from '../guest-agent/client.js';
import { fromPlainError, GuestAgentError, GuestNotThawed, type PlainError } from '../guest-agent/errors.js';
import { thawNow } from '../guest-agent/thaw.js';
import { byDeadline, deferred } from './deferred.js';
import { DetachedGuard } from './detached.js';
import {
  type FreezeGuardTask,
  freezeTask,
  type FromFreezeGuard,
  type ThawedMessage,
  type ToFreezeGuard,
} from './freeze-guard-messages.js';
import { type FinishReport, reportOfGuard, reportOfOwner, type ThawReport } from './freeze-report.js';

export { thawNow };

export interface FreezeGuardOptions extends v.InferInput<typeof freezeTask> {
  /** Ends start() and freeze(); the guest is thawed all the same. */
  readonly signal?: AbortSignal | undefined;
  /** Path or file URL of the guard's program. */
  readonly program?: string | URL | undefined;
}

/** What the guard may need for itself beyond the agent's deadlines: its start, a busy machine. */
const MARGIN_MS = 5_000;
const GUARD_PROGRAM = new URL('./freeze-guard-main.js', import.meta.url);

export class FreezeGuard {
  readonly #task: FreezeGuardTask;
  readonly #signal: AbortSignal | undefined;
  readonly #process: DetachedGuard<ToFreezeGuard, FromFreezeGuard>;
  readonly #ready = deferred<string>();
  readonly #frozen = deferred<number>();
  /** The last word about the freeze: of the guard, or of this side after it. Rejects with GuestNotThawed. */
  readonly #outcome = deferred<FinishReport>();
  readonly #thawing = deferred<void>();
  #status = deferred<FreezeStatus>();
  #state: 'idle' | 'freezing' | 'frozen' | 'over' = 'idle';
  #freezeRequestedAt: number | undefined;
  #freezeAnsweredAt: number | undefined;
  #freezeError: QmpBackupError | undefined;
  #failureWasTold = false;

  private constructor(options: FreezeGuardOptions) {
    const { program = GUARD_PROGRAM, signal } = options;
    this.#signal = signal;
    this.#task = v.parse(freezeTask, options);
    this.#process = new DetachedGuard({
      program,
      task: this.#task,
      on: {
        ready: ({ agentVersion }) => this.#ready.resolve(agentVersion),
        'not-ready': ({ error }) => this.#ready.reject(fromPlainError(error)),
        frozen: ({ fileSystems }) => this.#onFrozen(fileSystems),
        status: ({ status }) => this.#status.resolve(status),
        'no-status': ({ error }) => this.#status.reject(fromPlainError(error)),
        thawing: () => this.#thawing.resolve(),
        thawed: (message) => this.#onThawed(message),
        'not-thawed': ({ error }) => this.#onNotThawed(error),
      },
      onLost: (why) => this.#onLost(why),
      keepStderr: true,
    });
    // A call under way holds the process by its deadline; an idle guard must not keep an owner that forgot it.
    this.#process.unref();
  }

  /**
   * A guard that is connected, in step with the agent, and sure that the agent can freeze. Throws GuestAgentError
   * (also `no-freeze`, `already-frozen`), or an `interrupted` error by the signal.
   */
  static async start(options: FreezeGuardOptions): Promise<FreezeGuard> {
    if (options.signal?.aborted === true) throw interrupted('the start of the freeze guard', options.signal);
    const guard = new FreezeGuard(options);
    const { connectTimeoutMs } = guard.#task;
    const onAbort = (): void => {
      guard.#ready.reject(interrupted('the start of the freeze guard', options.signal));
    };
    options.signal?.addEventListener('abort', onAbort, { once: true });
    try {
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
    return this.#process.pid;
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
      this.#process.send({ type: 'thaw' });
    };
    this.#signal?.addEventListener('abort', onAbort, { once: true });
    try {
      this.#process.send({ type: 'freeze' });
      const { freezeTimeoutMs, thawTimeoutMs } = this.#task;
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
    this.#process.send({ type: 'status' });
    return this.#within(
      this.#task.connectTimeoutMs + MARGIN_MS,
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
      this.#process.release();
      const kill = setTimeout(() => this.#process.kill(), MARGIN_MS);
      await this.#process.exited;
      clearTimeout(kill);
    }
  }

  async #endFreeze(type: 'finish' | 'thaw'): Promise<FinishReport> {
    if (this.#freezeRequestedAt === undefined) {
      throw new QmpBackupError('failed', 'the guest was not frozen by this guard');
    }
    if (this.#state !== 'over') this.#process.send({ type });
    const { freezeTimeoutMs, thawTimeoutMs } = this.#task;
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

  #onFrozen(fileSystems: number): void {
    this.#freezeAnsweredAt = performance.now();
    if (this.#state === 'freezing') this.#state = 'frozen';
    this.#frozen.resolve(fileSystems);
  }

  #onThawed(thawed: ThawedMessage): void {
    this.#state = 'over';
    if (thawed.freezeError !== undefined) this.#freezeError ??= fromPlainError(thawed.freezeError);
    this.#outcome.resolve(reportOfGuard(thawed));
  }

  #onNotThawed(error: PlainError): void {
    this.#state = 'over';
    this.#outcome.reject(new GuestNotThawed(this.#task.agent, fromPlainError(error)));
  }

  #onLost(why: string): void {
    const before = this.#state;
    if (before === 'over') return;
    this.#state = 'over';
    const error = new GuestAgentError('lost', `the freeze guard is gone: ${why}`, { hint: 'run the command again' });
    this.#ready.reject(error);
    if (before === 'idle') this.#outcome.reject(error);
    else void this.#thawInPlace(error);
  }

  /** The guard died with the guest frozen, or perhaps frozen. */
  async #thawInPlace(why: GuestAgentError): Promise<void> {
    this.#freezeError ??= why;
    const { freezeTimeoutMs, thawTimeoutMs } = this.#task;
    const start = this.#freezeRequestedAt ?? performance.now();
    const freezeMs = this.#freezeAnsweredAt === undefined ? freezeTimeoutMs : 0;
    try {
      await thawNow(this.#task.agent, { timeoutMs: freezeMs + thawTimeoutMs });
      const frozenForMs = performance.now() - (this.#freezeAnsweredAt ?? start);
      this.#outcome.resolve(reportOfOwner(frozenForMs));
    } catch (error) {
      this.#outcome.reject(error);
    }
  }

  /** A guard that misses its deadline hangs: it is killed, and what follows is what follows its death. */
  #within<T>(ms: number, promise: Promise<T>, onLate: () => Error | void = () => this.#process.kill()): Promise<T> {
    return byDeadline(ms, promise, onLate);
  }
}

function interrupted(what: string, signal: AbortSignal | undefined): QmpBackupError {
  return new QmpBackupError('interrupted', `${what} was interrupted: ${messageOf(signal?.reason)}`);
}
