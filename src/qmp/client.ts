/**
 * One QMP session over one socket: greeting, capabilities, pipelined commands matched by id, events to their queues.
 * Its only rule about loss: whatever waits on a connection that ends is told so. Nothing is ever sent twice.
 */
import type { Socket } from 'node:net';
import { messageOf } from '../errors.js';
import { describeEndpoint, type Endpoint, openSocket } from './endpoint.js';
import {
  LineError,
  QmpCommandError,
  QmpConnectionLost,
  QmpInterrupted,
  QmpNotGreeted,
  QmpNotQmp,
  QmpProtocolError,
  QmpStateError,
  QmpTimeout,
  QmpUnreachable,
} from './errors.js';
import { type EventFeed, EventStream, type QmpEvent } from './event-stream.js';
import { formatJsonLine, LineSplitter, parseJsonLine } from './json-lines.js';

export interface QmpGreeting {
  readonly qemuVersion: { readonly major: number; readonly minor: number; readonly micro: number };
  /** The packager's version, as `Debian 1:7.2+dfsg-7`; may be empty. */
  readonly package: string;
  readonly capabilities: readonly string[];
}

export type QmpState = 'connecting' | 'negotiating' | 'ready' | 'closed';

export interface QmpConnectOptions {
  /** Until the socket is open, in ms. */
  readonly connectTimeoutMs?: number;
  /** Until the greeting has come, and again until capabilities are negotiated, in ms. */
  readonly greetingTimeoutMs?: number;
  /** For commands that set none of their own, in ms. */
  readonly commandTimeoutMs?: number;
  readonly maxMessageBytes?: number;
  /** Ends connecting; a session that is ready is not touched by it. */
  readonly signal?: AbortSignal;
  /** Sees every message as it is sent or received; must not throw. */
  readonly trace?: (direction: '>' | '<', message: unknown) => void;
}

export interface ExecuteOptions {
  /** In ms; Infinity waits as long as the connection lasts. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

const DEFAULT_CONNECT_TIMEOUT_MS = 5_000;
const DEFAULT_GREETING_TIMEOUT_MS = 5_000;
const DEFAULT_COMMAND_TIMEOUT_MS = 30_000;

interface Pending {
  readonly command: string;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

interface Listener {
  readonly wants: (event: string) => boolean;
  readonly feed: EventFeed;
}

type JsonObject = Readonly<Record<string, unknown>>;

export class QmpClient {
  /** Settles when the session has ended: undefined after our own `close()`, else how it was lost. Never rejects. */
  readonly lost: Promise<QmpConnectionLost | undefined>;

  readonly #socket: Socket;
  readonly #where: string;
  readonly #options: QmpConnectOptions;
  readonly #splitter: LineSplitter;
  readonly #pending = new Map<number, Pending>();
  readonly #listeners = new Set<Listener>();
  readonly #greeted: Promise<QmpGreeting>;
  #state: QmpState = 'connecting';
  #greeting: QmpGreeting | undefined;
  #lastId = 0;
  #closingByUs = false;
  /** Why the connection ended, once something said so: a socket error, or a message that we could not accept. */
  #reason: { readonly words: string; readonly cause: unknown } | undefined;
  #settleLost: (lost: QmpConnectionLost | undefined) => void = () => undefined;
  #settleGreeted: { resolve: (greeting: QmpGreeting) => void; reject: (error: Error) => void } | undefined;

  /** A session that is ready for commands. Throws QmpUnreachable (and its kinds), QmpConnectionLost, QmpInterrupted. */
  static async connect(endpoint: Endpoint, options: QmpConnectOptions = {}): Promise<QmpClient> {
    const socket = await openSocket(endpoint, {
      timeoutMs: options.connectTimeoutMs ?? DEFAULT_CONNECT_TIMEOUT_MS,
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    });
    return QmpClient.over(socket, endpoint, options);
  }

  /** The same over a connection that is there: one that QEMU has made to us, as `endpoint` names it. */
  static async over(socket: Socket, endpoint: Endpoint, options: QmpConnectOptions = {}): Promise<QmpClient> {
    const client = new QmpClient(socket, endpoint, options);
    try {
      await client.#open();
      return client;
    } catch (error) {
      await client.close();
      throw error;
    }
  }

  private constructor(socket: Socket, endpoint: Endpoint, options: QmpConnectOptions) {
    this.#socket = socket;
    this.#where = describeEndpoint(endpoint);
    this.#options = options;
    this.#splitter = new LineSplitter(options.maxMessageBytes);
    this.lost = new Promise((resolve) => {
      this.#settleLost = resolve;
    });
    this.#greeted = new Promise((resolve, reject) => {
      this.#settleGreeted = { resolve, reject };
    });
    socket.on('data', (chunk: Buffer) => this.#onData(chunk));
    socket.on('error', (cause) => this.#endBecause(messageOf(cause), cause));
    socket.on('close', () => this.#onClose());
  }

  get state(): QmpState {
    return this.#state;
  }

  get greeting(): QmpGreeting {
    if (this.#greeting === undefined) throw new QmpStateError('QEMU has not greeted yet');
    return this.#greeting;
  }

  /**
   * Sends one command and gives what QEMU returns. Throws QmpCommandError in QEMU's words; QmpTimeout and
   * QmpInterrupted, which carry the reply that may still come; QmpConnectionLost.
   */
  async execute(command: string, args?: JsonObject, options: ExecuteOptions = {}): Promise<unknown> {
    if (this.#state === 'closed') throw this.#connectionLost();
    if (this.#state !== 'ready') throw new QmpStateError(`'${command}' was called before the session was ready`);
    return this.#execute(command, args, options);
  }

  /**
   * A queue of the events from now on, all or only those named. Open it before the command it belongs to, close it
   * when done. On a connection that has ended its first read rejects.
   */
  events(filter?: readonly string[]): EventStream {
    return new EventStream((feed) => {
      const names = filter === undefined ? undefined : new Set(filter);
      const listener: Listener = { wants: (event) => names === undefined || names.has(event), feed };
      if (this.#state === 'closed') feed.fail(this.#connectionLost());
      else this.#listeners.add(listener);
      return () => void this.#listeners.delete(listener);
    });
  }

  /** Ends the session. What is still pending rejects with QmpConnectionLost; QEMU's jobs go on. Idempotent. */
  async close(): Promise<void> {
    if (this.#state !== 'closed') {
      this.#closingByUs ||= this.#reason === undefined;
      this.#socket.destroy();
    }
    await this.lost;
  }

  async #open(): Promise<void> {
    const timeoutMs = this.#options.greetingTimeoutMs ?? DEFAULT_GREETING_TIMEOUT_MS;
    this.#greeting = await this.#awaitGreeting(timeoutMs);
    try {
      await this.#execute('qmp_capabilities', undefined, {
        timeoutMs,
        ...(this.#options.signal === undefined ? {} : { signal: this.#options.signal }),
      });
    } catch (error) {
      if (!(error instanceof QmpTimeout)) throw error;
      throw new QmpUnreachable(`${this.#where} greeted but then did not answer within ${timeoutMs} ms`, {
        hint: 'QEMU may be stopped or hanging',
        cause: error,
      });
    }
    // The reply is delivered a little before this line runs, and the connection may have ended in between.
    if (this.#socket.destroyed) throw this.#connectionLost();
    this.#state = 'ready';
  }

  #awaitGreeting(timeoutMs: number): Promise<QmpGreeting> {
    const { signal } = this.#options;
    return new Promise((resolve, reject) => {
      const settle = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', onAbort);
      };
      const onAbort = (): void => {
        settle();
        reject(new QmpInterrupted(`connecting to ${this.#where}`, signal?.reason));
      };
      const timer = setTimeout(() => {
        settle();
        // Whoever has said half a sentence is not a monitor that serves somebody else.
        const said = this.#splitter.pendingBytes > 0;
        reject(
          said
            ? new QmpNotQmp(this.#where, this.#splitter.pendingExcerpt())
            : new QmpNotGreeted(this.#where, timeoutMs),
        );
      }, timeoutMs);
      this.#greeted.then(
        (greeting) => {
          settle();
          resolve(greeting);
        },
        (error: Error) => {
          settle();
          reject(error);
        },
      );
      if (signal?.aborted === true) onAbort();
      else signal?.addEventListener('abort', onAbort, { once: true });
    });
  }

  #execute(command: string, args: JsonObject | undefined, options: ExecuteOptions): Promise<unknown> {
    const { signal } = options;
    const timeoutMs = options.timeoutMs ?? this.#options.commandTimeoutMs ?? DEFAULT_COMMAND_TIMEOUT_MS;
    if (signal?.aborted === true) return Promise.reject(new QmpInterrupted(`'${command}'`, signal.reason));
    const reply = this.#send(command, args);
    return new Promise((resolve, reject) => {
      const settle = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', onAbort);
      };
      const onAbort = (): void => {
        settle();
        reject(new QmpInterrupted(`'${command}'`, signal?.reason, reply));
      };
      const timer = Number.isFinite(timeoutMs)
        ? setTimeout(() => {
            settle();
            reject(new QmpTimeout(command, timeoutMs, reply));
          }, timeoutMs)
        : undefined;
      signal?.addEventListener('abort', onAbort, { once: true });
      // This also marks `reply` as handled, so that a late error which nobody waits for any more kills no process.
      reply.then(
        (value) => {
          settle();
          resolve(value);
        },
        (error: Error) => {
          settle();
          reject(error);
        },
      );
    });
  }

  /** The reply itself, without a deadline: it settles by QEMU's answer or by the end of the connection. */
  #send(command: string, args: JsonObject | undefined): Promise<unknown> {
    const id = ++this.#lastId;
    const message = { execute: command, ...(args === undefined ? {} : { arguments: args }), id };
    const line = formatJsonLine(message);
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { command, resolve, reject });
      this.#options.trace?.('>', message);
      this.#sendTogether(line);
    });
  }

  /** Commands of one turn of the event loop go out in one write: each wakes QEMU's main loop, and takes the processor with it. */
  #sendTogether(line: string): void {
    if (this.#socket.writableCorked === 0) {
      this.#socket.cork();
      process.nextTick(() => this.#socket.uncork());
    }
    this.#socket.write(line);
  }

  #onData(chunk: Buffer): void {
    const { lines, fault } = this.#splitter.push(chunk);
    try {
      for (const line of lines) {
        // A connection that was given up, or closed from within a trace, has nothing more to say.
        if (this.#socket.destroyed) return;
        this.#onMessage(parseJsonLine(line));
      }
      if (fault !== undefined) throw fault;
    } catch (error) {
      if (this.#state === 'connecting' && error instanceof LineError) {
        this.#settleGreeted?.reject(new QmpNotQmp(this.#where, error.excerpt, { cause: error }));
      }
      this.#endBecause(`QEMU sent something that is not QMP: ${messageOf(error)}`, error);
      this.#socket.destroy();
    }
  }

  #onMessage(message: unknown): void {
    this.#options.trace?.('<', message);
    if (this.#state === 'connecting') {
      const greeting = readGreeting(message);
      if (greeting === undefined) {
        const excerpt = formatJsonLine(message).trim().slice(0, 80);
        this.#settleGreeted?.reject(new QmpNotQmp(this.#where, excerpt));
        this.#socket.destroy();
        return;
      }
      this.#state = 'negotiating';
      this.#settleGreeted?.resolve(greeting);
      return;
    }
    if (!isObject(message)) throw new QmpProtocolError('a message is not a JSON object');
    if (typeof message.event === 'string') this.#onEvent(readEvent(message.event, message));
    else if ('error' in message) this.#onError(message);
    else if ('return' in message) this.#takePending(message.id)?.resolve(message.return);
    else throw new QmpProtocolError(`a message is neither reply nor event: ${Object.keys(message).join(', ')}`);
  }

  #onEvent(event: QmpEvent): void {
    for (const listener of this.#listeners) {
      if (listener.wants(event.event)) listener.feed.deliver(event);
    }
  }

  #onError(message: JsonObject): void {
    const error = isObject(message.error) ? message.error : {};
    const errorClass = typeof error.class === 'string' ? error.class : 'GenericError';
    const desc = typeof error.desc === 'string' ? error.desc : 'no reason given';
    if ('id' in message) {
      const pending = this.#takePending(message.id);
      pending?.reject(new QmpCommandError(pending.command, errorClass, desc));
      return;
    }
    // QEMU could not even read what we sent, so it cannot say which command it was: none of them can be trusted.
    const all = [...this.#pending.values()];
    this.#pending.clear();
    for (const pending of all) {
      pending.reject(
        new QmpProtocolError(
          `QEMU could not read a message while '${pending.command}' was pending, so its outcome is unknown: ${desc}`,
        ),
      );
    }
  }

  /** Undefined for an id that is not ours, as that of a command which failed by an error without id. */
  #takePending(id: unknown): Pending | undefined {
    if (typeof id !== 'number') return undefined;
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    return pending;
  }

  /** The first reason is the true one; what follows (a reset after a refusal) only echoes it. */
  #endBecause(words: string, cause: unknown): void {
    if (!this.#closingByUs) this.#reason ??= { words, cause };
  }

  #onClose(): void {
    const halfAMessage = this.#splitter.pendingBytes > 0 ? ' in the middle of a message' : '';
    this.#endBecause(`it was closed from the other side${halfAMessage}`, undefined);
    const before = this.#state;
    this.#state = 'closed';

    const lost = this.#connectionLost();
    if (before === 'connecting') this.#settleGreeted?.reject(this.#connectionLost(undefined, 'before the greeting'));
    for (const pending of this.#pending.values()) pending.reject(this.#connectionLost(pending.command));
    this.#pending.clear();
    const listeners = [...this.#listeners];
    this.#listeners.clear();
    for (const listener of listeners) listener.feed.fail(lost);
    this.#settleLost(this.#closingByUs ? undefined : lost);
  }

  #connectionLost(pendingCommand?: string, when = ''): QmpConnectionLost {
    const reason = this.#reason;
    const words = this.#closingByUs ? 'this program closed it' : (reason?.words ?? 'it was closed from the other side');
    return new QmpConnectionLost(this.#where, when === '' ? words : `${words} (${when})`, {
      ...(pendingCommand === undefined ? {} : { pendingCommand }),
      ...(reason?.cause === undefined ? {} : { cause: reason.cause }),
      closedByUs: this.#closingByUs,
    });
  }
}

function readGreeting(message: unknown): QmpGreeting | undefined {
  if (!isObject(message) || !isObject(message.QMP) || !isObject(message.QMP.version)) return undefined;
  const { version, capabilities } = message.QMP;
  const qemu = version.qemu;
  if (!isObject(qemu)) return undefined;
  const { major, minor, micro } = qemu;
  if (typeof major !== 'number' || typeof minor !== 'number' || typeof micro !== 'number') return undefined;
  return {
    qemuVersion: { major, minor, micro },
    package: typeof version.package === 'string' ? version.package : '',
    capabilities: Array.isArray(capabilities) ? capabilities.filter((name) => typeof name === 'string') : [],
  };
}

function readEvent(event: string, message: JsonObject): QmpEvent {
  const { timestamp, data } = message;
  const known =
    isObject(timestamp) && typeof timestamp.seconds === 'number' && typeof timestamp.microseconds === 'number';
  const { seconds, microseconds } = known
    ? { seconds: timestamp.seconds as number, microseconds: timestamp.microseconds as number }
    : { seconds: -1, microseconds: -1 };
  return {
    event,
    data: isObject(data) ? data : {},
    // QEMU sends -1 in both where its own clock failed.
    timestampMs: seconds < 0 ? -1 : seconds * 1000 + microseconds / 1000,
  };
}

function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
