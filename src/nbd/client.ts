/**
 * One NBD connection to one export: requests are pipelined, replies are matched by cookie, and the payload of a read
 * goes from the socket straight into the caller's buffer. Every request has a deadline. A deadline, the caller's signal,
 * a broken protocol or a lost connection ends the connection, and every pending request fails at once with the reason.
 */
import { connect as openSocket, type Socket } from 'node:net';
import { describeAddress, type NbdAddress } from '../core/nbd-address.js';
import { isSocketPath, MAX_SOCKET_PATH } from '../core/socket-path.js';
import { messageOf, QmpBackupError } from '../errors.js';
import {
  NbdConnectionLost,
  NbdDeadline,
  NbdInterrupted,
  NbdProtocolViolation,
  NbdRequestError,
  NbdUnreachable,
} from './errors.js';
import { type ExportRequest, type NbdExport, negotiate } from './handshake.js';
import { type BlockStatus, describeRequest, readReplies, type StatusExtent, type Waiting } from './replies.js';
import { encodeRequest, Intake, MAX_LENGTH, NbdCommand, type Reader } from './wire.js';

/** Milliseconds. */
export interface NbdDeadlines {
  /** Until the export is open, from the first packet on. Default 30 s. */
  readonly connectMs?: number;
  /** For each request, from its sending. Default one minute. */
  readonly requestMs?: number;
  /** For a flush, which waits for the server's storage. Default ten minutes. */
  readonly flushMs?: number;
  /** For the server to hang up after it was told to. Default 10 s. */
  readonly closeMs?: number;
}

export interface NbdConnectOptions extends Partial<ExportRequest> {
  readonly deadlines?: NbdDeadlines;
  /** Ends the connection, also after it was opened. */
  readonly signal?: AbortSignal;
}

const DEFAULTS: Required<NbdDeadlines> = { connectMs: 30_000, requestMs: 60_000, flushMs: 600_000, closeMs: 10_000 };
const NOTHING = Buffer.alloc(0);

export class NbdClient {
  /** Settles when the connection has ended: undefined after our own `close`, else why. Never rejects. */
  readonly ended: Promise<Error | undefined>;

  readonly #where: string;
  readonly #socket: Socket;
  readonly #deadlines: Required<NbdDeadlines>;
  readonly #pending = new Map<bigint, Waiting>();
  readonly #intake: Intake;
  readonly #opened: Promise<void>;
  #export: NbdExport | undefined;
  #lastCookie = 0n;
  #closing = false;
  /** Why there is no connection any more. */
  #reason: Error | undefined;
  #settleOpened: { resolve: () => void; reject: (error: Error) => void } | undefined;
  #settleEnded: (reason: Error | undefined) => void = () => undefined;

  /**
   * A connection with the export open and every context agreed on.
   *
   * @throws NbdUnreachable, NbdRefused, NbdProtocolViolation, NbdDeadline, NbdConnectionLost, NbdInterrupted
   */
  static async connect(address: NbdAddress, options: NbdConnectOptions = {}): Promise<NbdClient> {
    const where = describeAddress(address);
    if (options.signal?.aborted === true) throw new NbdInterrupted(where, options.signal.reason);
    if (address.kind === 'unix' && !isSocketPath(address.path)) {
      throw new NbdUnreachable(where, `the path of a UNIX socket has at most ${MAX_SOCKET_PATH} bytes`);
    }
    const client = new NbdClient(address, options);
    await client.#opened;
    return client;
  }

  private constructor(address: NbdAddress, options: NbdConnectOptions) {
    this.#where = describeAddress(address);
    this.#deadlines = { ...DEFAULTS, ...options.deadlines };
    this.ended = new Promise((resolve) => {
      this.#settleEnded = resolve;
    });
    this.#opened = new Promise((resolve, reject) => {
      this.#settleOpened = { resolve, reject };
    });
    this.#intake = new Intake(this.#session(options));
    const onread = {
      buffer: () => this.#intake.space ?? NOTHING,
      callback: (count: number) => this.#received(count),
    };
    const socket =
      address.kind === 'unix'
        ? openSocket({ path: address.path, onread })
        : openSocket({ host: address.host, port: address.port, noDelay: true, onread });
    this.#socket = socket;
    const { signal } = options;
    const onAbort = (): void => this.#end(new NbdInterrupted(this.#where, signal?.reason));
    signal?.addEventListener('abort', onAbort, { once: true });
    let connected = false;
    socket.on('connect', () => {
      connected = true;
    });
    socket.on('error', (cause) => {
      const words = messageOf(cause);
      this.#end(
        connected
          ? new NbdConnectionLost(this.#where, words, cause)
          : new NbdUnreachable(this.#where, words, { cause, hint: 'check that the server is running there' }),
      );
    });
    socket.on('close', () => {
      signal?.removeEventListener('abort', onAbort);
      this.#end(this.#closing ? this.#closedByUs() : new NbdConnectionLost(this.#where, 'the server hung up'));
      this.#settleEnded(this.#closing ? undefined : this.#reason);
    });
    const { connectMs } = this.#deadlines;
    const timer = setTimeout(() => this.#end(new NbdDeadline(this.#where, 'open the export', connectMs)), connectMs);
    // This also marks the rejection as handled, before `connect` waits for it.
    this.#opened.then(
      () => clearTimeout(timer),
      () => clearTimeout(timer),
    );
  }

  get export(): NbdExport {
    if (this.#export === undefined) throw new NbdRequestError('the NBD export is not open yet');
    return this.#export;
  }

  /**
   * Reads `into.length` bytes at `offset`. The buffer is the connection's until the promise settles; where it rejects,
   * what is in it means nothing.
   *
   * @throws NbdServerError in the server's words, NbdRequestError, or why the connection ended.
   */
  async read(offset: number, into: Buffer): Promise<void> {
    this.#requirePayload(into.length);
    await this.#request(NbdCommand.read, offset, into.length, into);
  }

  /** Writes `data` at `offset`. The buffer must not change until the promise settles. Throws as `read`. */
  async write(offset: number, data: Buffer): Promise<void> {
    this.#requirePayload(data.length);
    await this.#request(NbdCommand.write, offset, data.length, data);
  }

  /** The range reads as zeros afterwards, whatever lies below it. Throws as `read`. */
  async writeZeroes(offset: number, length: number): Promise<void> {
    if (!this.export.canWriteZeroes) throw new NbdRequestError('the NBD server cannot write zeroes');
    await this.#request(NbdCommand.writeZeroes, offset, length, NOTHING);
  }

  /** What was written before is on the server's storage when this resolves. Throws as `read`. */
  async flush(): Promise<void> {
    if (!this.export.canFlush) throw new NbdRequestError('the NBD server cannot flush');
    await this.#request(NbdCommand.flush, 0, 0, NOTHING, this.#deadlines.flushMs);
  }

  /**
   * The extents of every context from `offset` on, by the context's name. Each list begins at `offset`, ends where it
   * likes, before or after `length` bytes, and not where the others end. Throws as `read`.
   */
  async blockStatus(offset: number, length: number): Promise<ReadonlyMap<string, readonly StatusExtent[]>> {
    const { contextIds } = this.export;
    if (contextIds.size === 0) throw new NbdRequestError('no meta context was asked for');
    const status = await this.#request(NbdCommand.blockStatus, offset, length, NOTHING);
    return new Map([...contextIds].map(([name, id]) => [name, status.get(id) ?? []]));
  }

  /**
   * Tells the server that this was all, and waits until it hangs up. Where requests are pending it fails them and hangs
   * up itself. Idempotent.
   */
  async close(): Promise<void> {
    if (this.#reason === undefined && !this.#closing) {
      this.#closing = true;
      if (this.#pending.size > 0) this.#end(this.#closedByUs());
      else this.#socket.end(encodeRequest({ command: NbdCommand.disconnect, cookie: 0n, offset: 0, length: 0 }));
    }
    const timer = setTimeout(() => this.#socket.destroy(), this.#deadlines.closeMs);
    await this.ended;
    clearTimeout(timer);
  }

  *#session(options: NbdConnectOptions): Reader<void> {
    const request = { exportName: options.exportName ?? '', contexts: options.contexts ?? [] };
    const open = yield* negotiate(request, (bytes) => void this.#socket.write(bytes));
    this.#export = open;
    this.#settleOpened?.resolve();
    yield* readReplies({
      structuredReplies: open.structuredReplies,
      contextIds: [...open.contextIds.values()],
      find: (cookie) => this.#pending.get(cookie),
      done: (cookie) => this.#pending.delete(cookie),
    });
  }

  #received(count: number): boolean {
    if (this.#reason !== undefined) return true;
    try {
      this.#intake.received(count);
    } catch (error) {
      this.#end(error instanceof QmpBackupError ? error : new NbdProtocolViolation(messageOf(error)));
    }
    return true;
  }

  #request(
    command: NbdCommand,
    offset: number,
    length: number,
    buffer: Buffer,
    timeoutMs = this.#deadlines.requestMs,
  ): Promise<BlockStatus> {
    if (this.#reason !== undefined) return Promise.reject(this.#reason);
    const { size, minBlock } = this.export;
    const what = describeRequest({ command, offset, length });
    const whole = Number.isSafeInteger(offset) && offset % minBlock === 0 && length % minBlock === 0;
    if (command !== NbdCommand.flush && (!whole || length <= 0 || length > MAX_LENGTH || offset + length > size)) {
      const limits = `the export has ${size} bytes in blocks of ${minBlock}`;
      return Promise.reject(new NbdRequestError(`cannot ${what}: ${limits}`));
    }
    if (this.#closing) return Promise.reject(new NbdRequestError(`cannot ${what}: the connection was closed`));
    this.#lastCookie += 1n;
    const cookie = this.#lastCookie;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.#end(new NbdDeadline(this.#where, what, timeoutMs)), timeoutMs);
      this.#pending.set(cookie, {
        command,
        offset,
        length,
        into: buffer,
        resolve: (status) => {
          clearTimeout(timer);
          resolve(status);
        },
        reject: (error) => {
          clearTimeout(timer);
          reject(error);
        },
      });
      const head = encodeRequest({ command, cookie, offset, length });
      if (command !== NbdCommand.write) {
        this.#socket.write(head);
        return;
      }
      // One system call for both, and no copy.
      this.#socket.cork();
      this.#socket.write(head);
      this.#socket.write(buffer);
      this.#socket.uncork();
    });
  }

  #requirePayload(length: number): void {
    const { maxPayload } = this.export;
    if (length > maxPayload) {
      throw new NbdRequestError(`${length} bytes are more than the ${maxPayload} that the NBD server takes at once`);
    }
  }

  /** The first reason is the true one; what follows it only echoes it. */
  #end(reason: Error): void {
    if (this.#reason !== undefined) return;
    this.#reason = reason;
    // First of all: from here on nothing is put into anybody's buffer.
    this.#socket.destroy();
    this.#settleOpened?.reject(reason);
    const all = [...this.#pending.values()];
    this.#pending.clear();
    for (const waiting of all) waiting.reject(reason);
  }

  #closedByUs(): Error {
    return new NbdConnectionLost(this.#where, 'this program closed it');
  }
}
