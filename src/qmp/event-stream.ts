/**
 * A queue of QMP events of its own for each listener, opened before the command whose events it waits for. It never
 * falls silent: when the connection ends, what was queued is still delivered, then every read rejects.
 */
import { type QmpConnectionLost, QmpInterrupted, QmpStateError } from './errors.js';

export interface QmpEvent {
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
  /** Milliseconds since 1970 by the clock of QEMU's host; -1 where QEMU could not tell. */
  readonly timestampMs: number;
}

/** The connection's side of a stream: what the owner of the socket puts in. */
export interface EventFeed {
  readonly deliver: (event: QmpEvent) => void;
  readonly fail: (error: QmpConnectionLost) => void;
}

type Taken =
  { readonly kind: 'event'; readonly event: QmpEvent } | { readonly kind: 'timeout' } | { readonly kind: 'closed' };

interface Waiter {
  readonly resolve: (taken: Taken) => void;
  readonly reject: (error: Error) => void;
}

/**
 * `for await` ends when the stream is closed by `close()` and throws when the connection ends; leaving the loop closes
 * the stream. Several readers get each event once, in the order in which they asked.
 */
export class EventStream implements AsyncIterable<QmpEvent> {
  readonly #queue: QmpEvent[] = [];
  readonly #waiters = new Set<Waiter>();
  readonly #detach: () => void;
  #failure: QmpConnectionLost | undefined;
  #closed = false;

  /** `attach` receives the feed and returns what is to be called once nobody listens any more. */
  constructor(attach: (feed: EventFeed) => () => void) {
    this.#detach = attach({
      deliver: (event) => this.#deliver(event),
      fail: (error) => this.#fail(error),
    });
  }

  /**
   * The next event; with `timeoutMs`, undefined when none came in time. Rejects with QmpConnectionLost once the
   * connection has ended and the queue is empty, QmpInterrupted by the signal, QmpStateError when closed.
   */
  next(options?: { readonly timeoutMs?: undefined; readonly signal?: AbortSignal | undefined }): Promise<QmpEvent>;
  next(options: {
    readonly timeoutMs: number;
    readonly signal?: AbortSignal | undefined;
  }): Promise<QmpEvent | undefined>;
  async next(
    options: { readonly timeoutMs?: number | undefined; readonly signal?: AbortSignal | undefined } = {},
  ): Promise<QmpEvent | undefined> {
    const taken = await this.#take(options.timeoutMs, options.signal);
    switch (taken.kind) {
      case 'event':
        return taken.event;
      case 'timeout':
        return undefined;
      case 'closed':
        throw new QmpStateError('the event stream is closed');
    }
  }

  /** What has come by now and nobody has read; waits for nothing. An event that came before a reply is in it once that is known. */
  come(): readonly QmpEvent[] {
    return this.#queue.splice(0);
  }

  /** Stops listening; queued events are dropped, pending reads end. May be called again. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#queue.length = 0;
    this.#detach();
    for (const waiter of this.#waiters) waiter.resolve({ kind: 'closed' });
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<QmpEvent, void, void> {
    try {
      for (;;) {
        const taken = await this.#take(undefined, undefined);
        if (taken.kind !== 'event') return;
        yield taken.event;
      }
    } finally {
      this.close();
    }
  }

  #deliver(event: QmpEvent): void {
    if (this.#closed || this.#failure !== undefined) return;
    const [first] = this.#waiters;
    if (first === undefined) this.#queue.push(event);
    else first.resolve({ kind: 'event', event });
  }

  #fail(error: QmpConnectionLost): void {
    if (this.#closed || this.#failure !== undefined) return;
    this.#failure = error;
    // Whoever waits has seen the queue empty, so nothing is overtaken here.
    for (const waiter of this.#waiters) waiter.reject(error);
  }

  #take(timeoutMs: number | undefined, signal: AbortSignal | undefined): Promise<Taken> {
    const queued = this.#queue.shift();
    if (queued !== undefined) return Promise.resolve({ kind: 'event', event: queued });
    if (this.#closed) return Promise.resolve({ kind: 'closed' });
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    if (signal?.aborted === true) return Promise.reject(interrupted(signal));
    return new Promise((resolve, reject) => {
      const settle = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', onAbort);
        this.#waiters.delete(waiter);
      };
      const waiter: Waiter = {
        resolve: (taken) => {
          settle();
          resolve(taken);
        },
        reject: (error) => {
          settle();
          reject(error);
        },
      };
      const onAbort = (): void => {
        if (signal !== undefined) waiter.reject(interrupted(signal));
      };
      const timer =
        timeoutMs === undefined || !Number.isFinite(timeoutMs)
          ? undefined
          : setTimeout(() => waiter.resolve({ kind: 'timeout' }), timeoutMs);
      signal?.addEventListener('abort', onAbort, { once: true });
      this.#waiters.add(waiter);
    });
  }
}

function interrupted(signal: AbortSignal): QmpInterrupted {
  return new QmpInterrupted('waiting for an event', signal.reason);
}
