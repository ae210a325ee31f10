import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { QmpBackupError } from '../errors.js';
import { DomainNotThawed } from '../libvirt/errors.js';
import { guardEnvironment } from './environment.js';

/**
 * Freezes and thaws a domain through libvirt, from a process of its own that thaws when it is told to, when this
 * process is gone however it died, or when the limit is over. One guard serves one freeze; always call `release()`.
 */
export interface FreezeTask {
  /** URI for virsh; null is its default. */
  readonly connect: string | null;
  readonly uuid: string;
  readonly name: string;
  /** How long the agent may take to freeze, in ms. */
  readonly freezeTimeoutMs: number;
  /** How long the guest may stay frozen after that, in ms, whatever the parent does. */
  readonly freezeLimitMs: number;
  /** How long to try to thaw before that is told, in ms: the guard goes on by itself after that. */
  readonly thawTimeoutMs: number;
}

/** What the guard says, one JSON line each. */
export type FromFreezeGuard =
  | { readonly kind: 'ready' }
  | { readonly kind: 'frozen'; readonly fileSystems: number }
  /** Nothing is frozen by us (any more). */
  | { readonly kind: 'not-frozen'; readonly why: string }
  | {
      readonly kind: 'thawed';
      readonly cause: DomainThawCause;
      /** File systems that were still frozen just before. */
      readonly fileSystems: number;
      /** From the answer to the freeze to the request to thaw, in ms. */
      readonly frozenMs: number;
    }
  | { readonly kind: 'not-thawed'; readonly why: string };

/** Because its parent said so, because the limit was over, or because nobody is there any more. */
export type DomainThawCause = 'asked' | 'limit' | 'alone';

export type ToFreezeGuard = 'freeze' | 'thaw';

export interface DomainThaw {
  /** Whether what had been frozen was still frozen when it was thawed. */
  readonly statusAfterTransaction: 'frozen' | 'thawed' | 'unknown';
  readonly freezeAnswerToThawRequestMs?: number | undefined;
}

const GUARD_PROGRAM = fileURLToPath(new URL('./domain-freeze-guard-main.js', import.meta.url));
const START_MS = 10_000;
/** What the guard may need beyond its own deadlines: a busy machine. */
const MARGIN_MS = 5_000;

export class DomainFreezeGuard {
  readonly #task: FreezeTask;
  readonly #child: ChildProcess;
  readonly #heard: FromFreezeGuard[] = [];
  readonly #exited: Promise<void>;
  #wake: () => void = () => undefined;
  #gone = false;
  #asked = false;
  #thawing: Promise<DomainThaw> | undefined;
  #fileSystems = 0;

  private constructor(task: FreezeTask) {
    this.#task = task;
    const child = spawn(process.execPath, [GUARD_PROGRAM, JSON.stringify(task)], {
      env: guardEnvironment(process.env),
      detached: true,
      stdio: ['pipe', 'pipe', 'ignore'],
    });
    this.#child = child;
    // EPIPE: the guard is gone, which the end of its output tells too.
    child.stdin.on('error', () => undefined);
    createInterface({ input: child.stdout })
      .on('line', (line) => {
        this.#heard.push(JSON.parse(line) as FromFreezeGuard);
        this.#wake();
      })
      .on('close', () => {
        this.#gone = true;
        this.#wake();
      });
    this.#exited = new Promise((resolve) => {
      child.once('error', () => resolve());
      child.once('exit', () => resolve());
    });
  }

  /** A guard that listens. Throws `failed` when its process does not start. */
  static async start(task: FreezeTask): Promise<DomainFreezeGuard> {
    const guard = new DomainFreezeGuard(task);
    if (await guard.#hear(['ready'], START_MS)) return guard;
    await guard.release();
    throw new QmpBackupError('failed', 'the process that guards the freeze did not start');
  }

  /** Freezes, once. Where it throws, nothing is frozen any more, or the error says that this is not known. */
  async freeze(): Promise<{ readonly fileSystems: number }> {
    this.#asked = true;
    this.#say('freeze');
    const { freezeTimeoutMs, thawTimeoutMs } = this.#task;
    const heard = await this.#hear(['frozen', 'not-frozen', 'not-thawed'], freezeTimeoutMs + thawTimeoutMs + MARGIN_MS);
    if (heard?.kind === 'frozen') {
      this.#fileSystems = heard.fileSystems;
      return { fileSystems: heard.fileSystems };
    }
    if (heard?.kind === 'not-frozen') throw new QmpBackupError('failed', heard.why);
    throw this.#notThawed(heard?.kind === 'not-thawed' ? heard.why : 'the freeze guard does not answer');
  }

  /** False where a freeze was not asked for, came to nothing, or is over for sure. */
  get mayBeFrozen(): boolean {
    return this.#asked && !this.#heard.some(({ kind }) => kind === 'not-frozen' || kind === 'thawed');
  }

  /** Right after the instant. Throws when nobody can say that the guest writes again. */
  finish(): Promise<DomainThaw> {
    return this.#thaw();
  }

  async thaw(): Promise<void> {
    await this.#thaw();
  }

  /** Ends the guard, thawing first if need be. One that cannot thaw now goes on with that, and is not waited for. */
  async release(): Promise<void> {
    // The end of its input makes it thaw what is frozen.
    this.#child.stdin?.end();
    const { freezeTimeoutMs, thawTimeoutMs } = this.#task;
    const ms = (this.#asked ? freezeTimeoutMs + thawTimeoutMs : 0) + MARGIN_MS;
    const ended = this.#exited.then(() => true);
    const left = this.#hear(['not-thawed'], ms).then((heard) => (!heard && this.#gone ? ended : false));
    if (await Promise.race([ended, left])) return;
    // One that hangs, and has nothing to thaw.
    if (!this.#asked) this.#child.kill('SIGKILL');
    this.#child.unref();
    this.#child.stdout?.destroy();
  }

  /** Once, however many ask for it. */
  #thaw(): Promise<DomainThaw> {
    this.#thawing ??= this.#thawOnce();
    return this.#thawing;
  }

  async #thawOnce(): Promise<DomainThaw> {
    this.#say('thaw');
    const heard = await this.#hear(['thawed', 'not-thawed'], this.#task.thawTimeoutMs + MARGIN_MS);
    if (heard?.kind !== 'thawed') {
      throw this.#notThawed(heard?.kind === 'not-thawed' ? heard.why : 'the freeze guard does not answer');
    }
    const held = heard.cause === 'asked' && heard.fileSystems >= this.#fileSystems;
    return { statusAfterTransaction: held ? 'frozen' : 'thawed', freezeAnswerToThawRequestMs: heard.frozenMs };
  }

  /** The first line of one of these kinds, said already or within `ms`; undefined when none came. */
  async #hear<Kind extends FromFreezeGuard['kind']>(
    kinds: readonly Kind[],
    ms: number,
  ): Promise<Extract<FromFreezeGuard, { kind: Kind }> | undefined> {
    const wanted = (line: FromFreezeGuard): line is Extract<FromFreezeGuard, { kind: Kind }> =>
      (kinds as readonly string[]).includes(line.kind);
    let over = false;
    const timer = setTimeout(() => {
      over = true;
      this.#wake();
    }, ms);
    try {
      for (;;) {
        const found = this.#heard.find(wanted);
        if (found || over || this.#gone) return found;
        await new Promise<void>((resolve) => (this.#wake = resolve));
      }
    } finally {
      clearTimeout(timer);
    }
  }

  #notThawed(why: string): QmpBackupError {
    return new DomainNotThawed(this.#task, why);
  }

  #say(word: ToFreezeGuard): void {
    if (this.#child.stdin?.writable) this.#child.stdin.write(`${word}\n`);
  }
}
