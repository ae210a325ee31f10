/**
 * Which answer belongs to which request. The agent numbers nothing, so answers match by order alone, and after one
 * that was late or made no sense the order is lost until a sync is answered: its answer stands behind a 0xFF and
 * repeats a random number of ours. Pure: bytes go in, callbacks come out; socket and clock are the client's.
 */
import { messageOf } from '../errors.js';
import { afterLastByte, formatJsonLine, LineSplitter, parseJsonLine } from '../qmp/json-lines.js';
import { GuestAgentError } from './errors.js';

const MARK = 0xff;
/** An agent's longest answer to us is guest-info, some KiB; more is not an agent. */
const MAX_LINE_BYTES = 4 * 1024 * 1024;

export interface AgentRequest {
  readonly command: string;
  /** Takes `return` of the answer; what it throws makes the answer garbage. */
  readonly onReturn: (value: unknown) => void;
  readonly onError: (error: GuestAgentError) => void;
}

type Awaited =
  | ({ readonly kind: 'command' } & AgentRequest)
  | {
      readonly kind: 'sync';
      readonly id: number;
      readonly onReturn: () => void;
      readonly onError: AgentRequest['onError'];
    };

export class Dialogue {
  readonly #splitter = new LineSplitter(MAX_LINE_BYTES);
  readonly #awaited: Awaited[] = [];
  readonly #givenUp: string[] = [];
  readonly #answeredLate = new Set<string>();
  #inStep = false;

  /** False at first and after every late, odd or surplus answer: the next request needs a sync before it. */
  get inStep(): boolean {
    return this.#inStep;
  }

  /** Whether an answer to a request of this name came after the request had been given up. */
  wasAnsweredLate(command: string): boolean {
    return this.#answeredLate.has(command);
  }

  /** Bytes to send. A 0xFF first makes the agent drop a request that an earlier client left half-written. */
  sync(id: number, settle: { readonly onReturn: () => void; readonly onError: AgentRequest['onError'] }): Buffer {
    this.#awaited.push({ kind: 'sync', id, ...settle });
    const request = formatJsonLine({ execute: 'guest-sync-delimited', arguments: { id } });
    return Buffer.concat([Buffer.of(MARK), Buffer.from(request)]);
  }

  /** Bytes to send. */
  request(request: AgentRequest): Buffer {
    this.#awaited.push({ kind: 'command', ...request });
    return Buffer.from(formatJsonLine({ execute: request.command }));
  }

  /** Bytes that came. */
  push(chunk: Buffer): void {
    const { lines, fault } = this.#splitter.push(chunk);
    for (const line of lines) this.#onLine(line);
    if (fault !== undefined) this.giveUp(garbage(fault));
  }

  /** Ends every open request with this error. Their answers may still come: out of step. */
  giveUp(error: GuestAgentError): void {
    this.#inStep = false;
    for (const awaited of this.#awaited.splice(0)) {
      if (awaited.kind === 'command') this.#givenUp.push(awaited.command);
      awaited.onError(error);
    }
  }

  #onLine(line: Buffer): void {
    let message: Readonly<Record<string, unknown>>;
    try {
      message = objectOf(parseJsonLine(afterLastByte(line, MARK)));
    } catch (cause) {
      this.#onGarbage(cause);
      return;
    }
    if (line.includes(MARK)) {
      this.#onMarked(message);
      return;
    }
    if ('QMP' in message) {
      this.giveUp(
        new GuestAgentError('garbage', 'this is a QMP monitor, not a guest agent', {
          hint: 'give --agent-socket the socket of the chardev behind the port org.qemu.guest_agent.0',
        }),
      );
      return;
    }
    const [head] = this.#awaited;
    if (head?.kind === 'command') this.#onAnswer(message, head);
    else this.#onSurplus(message);
  }

  #onMarked(message: Readonly<Record<string, unknown>>): void {
    const [head] = this.#awaited;
    // Any other number answers a sync that was given up, or another client's.
    if (head?.kind !== 'sync' || message.return !== head.id) return;
    this.#awaited.shift();
    this.#inStep = true;
    head.onReturn();
  }

  #onAnswer(message: Readonly<Record<string, unknown>>, head: AgentRequest): void {
    if (isObject(message.error)) {
      this.#awaited.shift();
      const { desc } = message.error;
      const words = typeof desc === 'string' ? desc : JSON.stringify(message.error);
      head.onError(new GuestAgentError('refused', `the guest agent refused '${head.command}': ${words}`));
      return;
    }
    try {
      if (!('return' in message)) throw new Error(`neither "return" nor "error" in ${JSON.stringify(message)}`);
      head.onReturn(message.return);
    } catch (cause) {
      this.#onGarbage(cause);
      return;
    }
    this.#awaited.shift();
  }

  #onGarbage(cause: unknown): void {
    // Until a sync is answered anything may come, such as the rest of what an earlier client asked.
    if (this.#awaited[0]?.kind === 'sync') return;
    this.giveUp(garbage(cause));
  }

  #onSurplus(message: Readonly<Record<string, unknown>>): void {
    if (this.#awaited.length === 0) this.#inStep = false;
    // The agent complains about our 0xFF, which is no answer to anything.
    if (isObject(message.error) && /JSON/.test(String(message.error.desc))) return;
    const late = this.#givenUp.shift();
    if (late !== undefined) this.#answeredLate.add(late);
  }
}

function garbage(cause: unknown): GuestAgentError {
  return new GuestAgentError('garbage', `the guest agent's answer makes no sense: ${messageOf(cause)}`, {
    hint: 'look at qemu-guest-agent in the guest, and whether another program uses its socket too',
    cause,
  });
}

function objectOf(value: unknown): Readonly<Record<string, unknown>> {
  if (!isObject(value)) throw new Error(`not an object: ${JSON.stringify(value)}`);
  return value;
}

export function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
