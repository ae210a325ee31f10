/**
 * A client of a QEMU guest agent's socket. Every conversation begins with `guest-sync-delimited`, and begins anew after
 * an answer that was late or made no sense. The socket serves one client at a time: a second one is connected and then
 * never answered.
 */
import { randomInt } from 'node:crypto';
import type { Socket } from 'node:net';
import { messageOf } from '../errors.js';
import { describeEndpoint, type Endpoint, openSocket } from '../qmp/endpoint.js';
import { QmpInterrupted, QmpUnreachable } from '../qmp/errors.js';
import { Dialogue, isObject } from './dialogue.js';
import { GuestAgentError } from './errors.js';

export type FreezeStatus = 'thawed' | 'frozen';

export interface AgentConnectOptions {
  /** For connection and first answer together, in ms. */
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
}

export interface AgentInfo {
  readonly version: string;
  /** Commands that the agent carries out. While frozen it says of most that they are disabled. */
  readonly enabled: ReadonlySet<string>;
  readonly disabled: ReadonlySet<string>;
}

/** What one thaw gave. Times are `performance.now()` in ms. */
export interface ThawStep {
  /** The status before the thaw; `unknown` if it was not asked for or the agent would not say. */
  readonly before: FreezeStatus | 'unknown';
  readonly after: FreezeStatus;
  readonly requestedAt: number;
  readonly answeredAt: number;
  readonly confirmedAt: number;
}

const FREEZE = 'guest-fsfreeze-freeze';
const THAW = 'guest-fsfreeze-thaw';
const STATUS = 'guest-fsfreeze-status';

export class GuestAgent {
  readonly endpoint: Endpoint;
  readonly #socket: Socket;
  readonly #dialogue = new Dialogue();
  #lost: GuestAgentError | undefined;

  private constructor(endpoint: Endpoint, socket: Socket) {
    this.endpoint = endpoint;
    this.#socket = socket;
    socket.on('data', (chunk) => this.#dialogue.push(chunk));
    socket.on('error', (cause) => this.#end(messageOf(cause), cause));
    socket.on('close', () => this.#end('the peer closed it'));
  }

  /** Connects and syncs. Throws GuestAgentError (`unreachable`, `silent`, `garbage`, `lost`) or, by the signal, QmpInterrupted. */
  static async connect(endpoint: Endpoint, options: AgentConnectOptions): Promise<GuestAgent> {
    const { timeoutMs, signal } = options;
    const where = describeEndpoint(endpoint);
    const deadline = performance.now() + timeoutMs;
    const socket = await openSocket(endpoint, { timeoutMs, ...(signal === undefined ? {} : { signal }) }).catch(
      (cause: unknown) => {
        throw cause instanceof QmpUnreachable
          ? new GuestAgentError('unreachable', `no guest agent: ${cause.message}`, { hint: cause.hint, cause })
          : cause;
      },
    );
    const agent = new GuestAgent(endpoint, socket);
    const onAbort = (): void => agent.close();
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      await agent.#sync(Math.max(deadline - performance.now(), 1));
      return agent;
    } catch (error) {
      agent.close();
      if (signal?.aborted === true)
        throw new QmpInterrupted(`connecting to the guest agent at ${where}`, signal.reason);
      if (!(error instanceof GuestAgentError) || error.kind !== 'timeout') throw error;
      throw new GuestAgentError(
        'silent',
        `${where} accepted the connection but no guest agent answered within ${Math.round(timeoutMs)} ms: ` +
          'no agent runs in the guest, or another client holds its socket, which serves one at a time',
        {
          hint: 'start qemu-guest-agent in the guest, and close other clients of this socket (a backup tool, socat)',
          cause: error,
        },
      );
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  async ping(timeoutMs: number): Promise<void> {
    await this.#call('guest-ping', () => undefined, timeoutMs);
  }

  info(timeoutMs: number): Promise<AgentInfo> {
    return this.#call('guest-info', readInfo, timeoutMs);
  }

  fsfreezeStatus(timeoutMs: number): Promise<FreezeStatus> {
    return this.#call(STATUS, readStatus, timeoutMs);
  }

  /** How many file systems were frozen. On `timeout` the agent may still freeze them later: thaw, and confirm it. */
  freeze(timeoutMs: number): Promise<number> {
    return this.#call(FREEZE, readCount, timeoutMs);
  }

  /** How many file systems were thawed; 0 if none was frozen. */
  thaw(timeoutMs: number): Promise<number> {
    return this.#call(THAW, readCount, timeoutMs);
  }

  /**
   * Status (if asked for), thaw and status once more in one write: no round trip of ours prolongs the freeze, and an
   * agent that hangs has the thaw before it even if we die. Rejects if the last status is not answered in time.
   */
  async thawAtOnce(options: { readonly askBefore: boolean; readonly timeoutMs: number }): Promise<ThawStep> {
    const { askBefore, timeoutMs } = options;
    const requests: Buffer[] = [];
    if (!this.#dialogue.inStep) requests.push(this.#syncBytes({ onReturn: ignore, onError: ignore }));
    const ask = <T>(command: string, read: (value: unknown) => T): Promise<{ value: T; at: number }> =>
      new Promise((resolve, reject) => {
        const onReturn = (value: unknown): void => resolve({ value: read(value), at: performance.now() });
        requests.push(this.#dialogue.request({ command, onReturn, onError: reject }));
      });

    const before = askBefore ? ask(STATUS, readStatus) : undefined;
    const thawed = ask(THAW, readCount);
    const after = ask(STATUS, readStatus);
    const requestedAt = performance.now();
    const done = Promise.allSettled([before, thawed, after]);
    await this.#within(timeoutMs, THAW, requests, done);
    const [beforeOutcome, thawOutcome, afterOutcome] = await done;
    if (afterOutcome.status === 'rejected') throw afterOutcome.reason;
    // A thaw that was refused does not matter if the agent then says that the guest is thawed.
    if (afterOutcome.value.value === 'frozen' && thawOutcome.status === 'rejected') throw thawOutcome.reason;
    return {
      before: beforeOutcome.status === 'fulfilled' ? (beforeOutcome.value?.value ?? 'unknown') : 'unknown',
      after: afterOutcome.value.value,
      requestedAt,
      answeredAt: thawOutcome.status === 'fulfilled' ? thawOutcome.value.at : afterOutcome.value.at,
      confirmedAt: afterOutcome.value.at,
    };
  }

  /** Whether a freeze that had timed out was answered since. */
  get lateFreezeWasAnswered(): boolean {
    return this.#dialogue.wasAnsweredLate(FREEZE);
  }

  /** Waits no longer for what is under way; the agent may still do it. */
  abandon(reason: string): void {
    this.#dialogue.giveUp(new GuestAgentError('timeout', reason));
  }

  close(): void {
    this.#end('we closed it');
    this.#socket.destroy();
  }

  async #call<T>(command: string, read: (value: unknown) => T, timeoutMs: number): Promise<T> {
    const deadline = performance.now() + timeoutMs;
    // Never sent behind an unanswered sync: a freeze must not be carried out after we have stopped waiting for it.
    if (!this.#dialogue.inStep) await this.#sync(timeoutMs);
    const requests: Buffer[] = [];
    const answer = new Promise<T>((resolve, reject) => {
      const onReturn = (value: unknown): void => resolve(read(value));
      requests.push(this.#dialogue.request({ command, onReturn, onError: reject }));
    });
    await this.#within(Math.max(deadline - performance.now(), 1), command, requests, answer);
    return answer;
  }

  async #sync(timeoutMs: number): Promise<void> {
    const requests: Buffer[] = [];
    const answer = new Promise<void>((resolve, reject) => {
      requests.push(this.#syncBytes({ onReturn: resolve, onError: reject }));
    });
    await this.#within(timeoutMs, 'guest-sync-delimited', requests, answer);
  }

  #syncBytes(settle: Parameters<Dialogue['sync']>[1]): Buffer {
    return this.#dialogue.sync(randomInt(1, 2 ** 31), settle);
  }

  /** Sends, and gives everything up if `answers` takes longer than `timeoutMs`. */
  async #within(
    timeoutMs: number,
    what: string,
    requests: readonly Buffer[],
    answers: Promise<unknown>,
  ): Promise<void> {
    const timer = setTimeout(() => {
      const late = `the guest agent did not answer '${what}' within ${Math.round(timeoutMs)} ms`;
      this.#dialogue.giveUp(
        new GuestAgentError('timeout', late, { hint: 'look at the load of the guest and at its agent' }),
      );
    }, timeoutMs);
    try {
      if (this.#lost !== undefined) this.#dialogue.giveUp(this.#lost);
      else this.#socket.write(Buffer.concat(requests));
      await answers;
    } finally {
      clearTimeout(timer);
    }
  }

  #end(reason: string, cause?: unknown): void {
    this.#lost ??= new GuestAgentError(
      'lost',
      `the connection to the guest agent at ${describeEndpoint(this.endpoint)} ended: ${reason}`,
      { hint: 'check whether the VM is still running', cause },
    );
    this.#dialogue.giveUp(this.#lost);
  }
}

/** True for the three commands of a freeze. */
export function canFreeze(info: AgentInfo): boolean {
  return [STATUS, FREEZE, THAW].every((command) => info.enabled.has(command));
}

function ignore(): void {
  // The requests behind the sync carry the outcome.
}

function readStatus(value: unknown): FreezeStatus {
  if (value === 'thawed' || value === 'frozen') return value;
  throw new Error(`${STATUS} is ${JSON.stringify(value)}, neither "thawed" nor "frozen"`);
}

function readCount(value: unknown): number {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value;
  throw new Error(`${JSON.stringify(value)} is no number of file systems`);
}

function readInfo(value: unknown): AgentInfo {
  if (!isObject(value) || !Array.isArray(value.supported_commands)) throw new Error('guest-info lists no commands');
  const commands = value.supported_commands.filter(isObject);
  const names = (enabled: boolean): ReadonlySet<string> =>
    new Set(
      commands.filter((command) => (command.enabled === true) === enabled).map((command) => String(command.name)),
    );
  return {
    version: typeof value.version === 'string' ? value.version : 'unknown',
    enabled: names(true),
    disabled: names(false),
  };
}
