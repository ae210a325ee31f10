/**
 * Bytes to JSON messages, one a line, as QMP and the guest agent send them. Pure: no socket, no clock. Splitting and
 * parsing are apart, so that the guest agent can throw away what stands before its 0xFF mark in between.
 */
import { messageOf } from '../errors.js';
import { LineError } from './errors.js';

/** Default size cap of one line in bytes: the QMP schema and the node list of a deep chain take megabytes. */
export const DEFAULT_MAX_LINE_BYTES = 16 * 1024 * 1024;

const LF = 0x0a;
const CR = 0x0d;
const EXCERPT_BYTES = 80;

/** The lines that a chunk completed, in order, and the fault that came after them: nothing can follow a fault. */
export interface SplitResult {
  readonly lines: readonly Buffer[];
  readonly fault: LineError | undefined;
}

/** Cuts a byte stream at LF or CRLF, wherever its chunks end. Line ends are taken off, empty lines left out. */
export class LineSplitter {
  readonly #maxLineBytes: number;
  #partial: Buffer[] = [];
  #partialBytes = 0;

  constructor(maxLineBytes = DEFAULT_MAX_LINE_BYTES) {
    this.#maxLineBytes = maxLineBytes;
  }

  /** How many bytes of an unfinished line are held. */
  get pendingBytes(): number {
    return this.#partialBytes;
  }

  /** The start of the unfinished line, for messages to people. */
  pendingExcerpt(): string {
    return excerptOf(Buffer.concat(this.#partial));
  }

  push(chunk: Buffer): SplitResult {
    const lines: Buffer[] = [];
    let start = 0;
    for (let end = chunk.indexOf(LF); end !== -1; end = chunk.indexOf(LF, start)) {
      const fault = this.#hold(chunk.subarray(start, end));
      if (fault !== undefined) return { lines, fault };
      const line = withoutTrailingCr(this.#take());
      if (line.length > 0) lines.push(line);
      start = end + 1;
    }
    return { lines, fault: this.#hold(chunk.subarray(start)) };
  }

  /** Forgets the unfinished line, as when a conversation begins anew. */
  reset(): void {
    this.#partial = [];
    this.#partialBytes = 0;
  }

  #hold(bytes: Buffer): LineError | undefined {
    if (bytes.length > 0) {
      this.#partial.push(bytes);
      this.#partialBytes += bytes.length;
    }
    // One byte of grace: the CR of a line that is just as long as allowed.
    if (this.#partialBytes <= this.#maxLineBytes + 1) return undefined;
    const excerpt = excerptOf(Buffer.concat(this.#partial));
    this.reset();
    return new LineError('too-long', `a message is longer than ${this.#maxLineBytes} bytes: it begins ${excerpt}`, {
      excerpt,
    });
  }

  #take(): Buffer {
    const [only] = this.#partial;
    const line = this.#partial.length === 1 && only !== undefined ? only : Buffer.concat(this.#partial);
    this.reset();
    return line;
  }
}

/** What follows the last `mark` in a line, or the whole line. 0xFF (the agent's mark) never occurs in UTF-8. */
export function afterLastByte(line: Buffer, mark: number): Buffer {
  return line.subarray(line.lastIndexOf(mark) + 1);
}

/** One line's JSON value; throws LineError with a short excerpt. Bytes that are not UTF-8 are not JSON either. */
export function parseJsonLine(line: Buffer): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(line));
  } catch (cause) {
    const excerpt = excerptOf(line);
    throw new LineError('not-json', `not a JSON message (${messageOf(cause)}): ${excerpt}`, { excerpt, cause });
  }
}

/** One message as a line. JSON text holds no raw line feed, so one at the end is enough. */
export function formatJsonLine(message: unknown): string {
  return `${JSON.stringify(message)}\n`;
}

function withoutTrailingCr(line: Buffer): Buffer {
  return line[line.length - 1] === CR ? line.subarray(0, -1) : line;
}

function excerptOf(bytes: Buffer): string {
  const text = bytes
    .subarray(0, EXCERPT_BYTES)
    .toString('utf8')
    // Control characters of a foreign peer must not reach a terminal.
    // eslint-disable-next-line no-control-regex
    .replace(/[\u0000-\u001f\u007f-\u009f]/g, '·');
  return bytes.length > EXCERPT_BYTES ? `${text}...` : text;
}
