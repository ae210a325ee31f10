import { QmpBackupError } from '../errors.js';
import { DomainNotThawed } from '../libvirt/errors.js';
import { byDeadline, deferred } from './deferred.js';
import { DetachedGuard } from './detached.js';
import type {
  DomainFreezeTask,
  DomainThawedMessage,
  FromDomainFreezeGuard,
  ToDomainFreezeGuard,
} from './domain-freeze-guard-messages.js';

export interface DomainThaw {
  /** Whether what had been frozen was still frozen when it was thawed. */
  readonly statusAfterTransaction: 'frozen' | 'thawed' | 'unknown';
  readonly freezeAnswerToThawRequestMs?: number | undefined;
}

const GUARD_PROGRAM = new URL('./domain-freeze-guard-main.js', import.meta.url);
const NO_ANSWER = 'the freeze guard does not answer';
/** What the guard may need beyond its own deadlines: a busy machine. */
const MARGIN_MS = 5_000;

/**
 * Freezes and thaws a domain through libvirt, from a process of its own that thaws when it is told to, when this
 * process is gone however it died, or when the limit is over. One guard serves one freeze; always call `release()`.
 */
export class DomainFreezeGuard {
  readonly #task: DomainFreezeTask;
  readonly #process: DetachedGuard<ToDomainFreezeGuard, FromDomainFreezeGuard>;
  readonly #frozen = deferred<number>();
  readonly #thawed = deferred<DomainThawedMessage>();
  /** It cannot thaw now, and goes on trying. */
  readonly #stuck = deferred<true>();
  #asked = false;
  #over = false;
  #fileSystems = 0;
  #thawing: Promise<DomainThaw> | undefined;

  private constructor(task: DomainFreezeTask) {
    this.#task = task;
    this.#process = new DetachedGuard({
      program: GUARD_PROGRAM,
      task,
      on: {
        frozen: ({ fileSystems }) => this.#frozen.resolve(fileSystems),
        'not-frozen': ({ why }) => {
          this.#over = true;
          this.#frozen.reject(new QmpBackupError('failed', why));
        },
        thawed: (message) => {
          this.#over = true;
          this.#thawed.resolve(message);
        },
        'not-thawed': ({ why }) => {
          this.#fail(why);
          this.#stuck.resolve(true);
        },
      },
      onLost: () => this.#fail(NO_ANSWER),
    });
  }

  /** A guard that listens. Throws `failed` when its process does not start. */
  static async start(task: DomainFreezeTask): Promise<DomainFreezeGuard> {
    const guard = new DomainFreezeGuard(task);
    await guard.#process.ready('the freeze');
    return guard;
  }

  /** Freezes, once. Where it throws, nothing is frozen any more, or the error says that this is not known. */
  async freeze(): Promise<{ readonly fileSystems: number }> {
    this.#asked = true;
    this.#process.send({ type: 'freeze' });
    const { freezeTimeoutMs, thawTimeoutMs } = this.#task;
    this.#fileSystems = await this.#answer(freezeTimeoutMs + thawTimeoutMs + MARGIN_MS, this.#frozen.promise);
    return { fileSystems: this.#fileSystems };
  }

  /** False where a freeze was not asked for, came to nothing, or is over for sure. */
  get mayBeFrozen(): boolean {
    return this.#asked && !this.#over;
  }

  /** Right after the instant; once, however many ask for it. Throws when nobody can say that the guest writes again. */
  finish(): Promise<DomainThaw> {
    this.#thawing ??= this.#thaw();
    return this.#thawing;
  }

  async thaw(): Promise<void> {
    await this.finish();
  }

  /** Ends the guard, thawing first if need be. One that cannot thaw now goes on with that, and is not waited for. */
  async release(): Promise<void> {
    // The end of its input makes it thaw what is frozen.
    this.#process.release();
    const { freezeTimeoutMs, thawTimeoutMs } = this.#task;
    const ms = (this.#asked ? freezeTimeoutMs + thawTimeoutMs : 0) + MARGIN_MS;
    const goesOn = Promise.race([this.#process.exited.then(() => false), this.#stuck.promise]);
    if (!(await byDeadline(ms, goesOn, () => this.#stuck.resolve(true)))) return;
    // One that hangs, and has nothing to thaw.
    if (!this.#asked) this.#process.kill();
    this.#process.leave();
  }

  async #thaw(): Promise<DomainThaw> {
    this.#process.send({ type: 'thaw' });
    const thawed = await this.#answer(this.#task.thawTimeoutMs + MARGIN_MS, this.#thawed.promise);
    const held = thawed.cause === 'asked' && thawed.fileSystems >= this.#fileSystems;
    return { statusAfterTransaction: held ? 'frozen' : 'thawed', freezeAnswerToThawRequestMs: thawed.frozenMs };
  }

  #answer<T>(ms: number, promise: Promise<T>): Promise<T> {
    return byDeadline(ms, promise, () => new DomainNotThawed(this.#task, NO_ANSWER));
  }

  #fail(why: string): void {
    const error = new DomainNotThawed(this.#task, why);
    this.#frozen.reject(error);
    this.#thawed.reject(error);
  }
}
