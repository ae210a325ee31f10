/**
 * The server's side after the handshake: simple replies and chunks of structured ones, matched to the requests that
 * wait for them. Whatever a server may not say is a violation: no byte is taken that was not asked for, none twice, and
 * a read is done only when all of its bytes have come.
 */
import { NbdProtocolViolation, NbdServerError } from './errors.js';
import {
  CHUNK_DONE,
  CHUNK_ERROR,
  ChunkType,
  errnoName,
  NbdCommand,
  type Reader,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
  take,
} from './wire.js';

/** A run of bytes of which a meta context says the same. `length` is bytes. */
export interface StatusExtent {
  readonly length: number;
  readonly flags: number;
}

/** By the server's id of the context. */
export type BlockStatus = ReadonlyMap<number, readonly StatusExtent[]>;

export interface Waiting {
  readonly command: NbdCommand;
  /** Bytes. */
  readonly offset: number;
  readonly length: number;
  /** Where the bytes of a read belong: `length` bytes. */
  readonly into: Buffer;
  /** With what a BLOCK_STATUS tells; empty for other commands. */
  readonly resolve: (status: BlockStatus) => void;
  readonly reject: (error: Error) => void;
}

export interface Transmission {
  readonly structuredReplies: boolean;
  readonly contextIds: readonly number[];
  /** Takes the request of this cookie out of those that wait when `done`. */
  readonly find: (cookie: bigint) => Waiting | undefined;
  readonly done: (cookie: bigint) => void;
}

/** What has come of a structured reply so far. */
interface Partial {
  readonly waiting: Waiting;
  readonly covered: Coverage;
  readonly status: Map<number, readonly StatusExtent[]>;
  error: NbdServerError | undefined;
}

interface Chunk {
  readonly type: number;
  readonly done: boolean;
  readonly length: number;
}

/** qemu sends at most 131072 extents; no server needs more than this in one chunk. */
const MAX_EXTENTS = 1_048_576;
const MAX_ERROR_TEXT = 4096;
/** Pieces of one read that do not touch each other yet. */
const MAX_SCATTERED = 1024;
const NO_STATUS: BlockStatus = new Map();

/** Reads replies until the connection ends. @throws NbdProtocolViolation */
export function* readReplies(transmission: Transmission): Reader<void> {
  const partials = new Map<bigint, Partial>();
  const head = Buffer.alloc(16);
  for (;;) {
    yield head;
    const magic = head.readUInt32BE(0);
    const cookie = head.readBigUInt64BE(8);
    const waiting = transmission.find(cookie);
    if (magic !== SIMPLE_REPLY_MAGIC && magic !== STRUCTURED_REPLY_MAGIC) {
      throw new NbdProtocolViolation('a reply begins with a wrong magic number');
    }
    if (waiting === undefined) throw new NbdProtocolViolation('it answers a request that is not pending');
    if (magic === SIMPLE_REPLY_MAGIC) {
      if (partials.has(cookie)) throw new NbdProtocolViolation('it mixes both kinds of reply to one request');
      const error = yield* readSimple(waiting, head.readUInt32BE(4), transmission.structuredReplies);
      transmission.done(cookie);
      settle(waiting, error, NO_STATUS);
      continue;
    }
    if (!transmission.structuredReplies) throw new NbdProtocolViolation('a structured reply was not agreed on');
    const [flags, type] = [head.readUInt16BE(4), head.readUInt16BE(6)];
    const length = (yield* take(4)).readUInt32BE();
    const partial = partials.get(cookie) ?? { waiting, covered: new Coverage(), status: new Map(), error: undefined };
    const chunk = { type, done: (flags & CHUNK_DONE) !== 0, length };
    yield* readChunk(partial, chunk, transmission.contextIds);
    if (!chunk.done) {
      partials.set(cookie, partial);
      continue;
    }
    partials.delete(cookie);
    if (partial.error === undefined) requireWhole(partial, transmission.contextIds);
    transmission.done(cookie);
    settle(waiting, partial.error, partial.status);
  }
}

function settle(waiting: Waiting, error: NbdServerError | undefined, status: BlockStatus): void {
  if (error === undefined) waiting.resolve(status);
  else waiting.reject(error);
}

function* readSimple(waiting: Waiting, errno: number, structured: boolean): Reader<NbdServerError | undefined> {
  if (errno !== 0) return serverError(waiting, errno, '');
  const needsChunks = waiting.command === NbdCommand.blockStatus || (waiting.command === NbdCommand.read && structured);
  if (needsChunks) throw new NbdProtocolViolation('a simple reply cannot answer this request');
  if (waiting.command === NbdCommand.read) yield waiting.into;
  return undefined;
}

function* readChunk(partial: Partial, chunk: Chunk, contextIds: readonly number[]): Reader<void> {
  const { waiting } = partial;
  const { type, length, done } = chunk;
  if ((type & CHUNK_ERROR) !== 0) {
    const error = yield* readError(waiting, type, length);
    partial.error ??= error;
  } else if (type === ChunkType.none) {
    if (length !== 0 || !done) throw new NbdProtocolViolation('an empty chunk is not empty, or not the last');
  } else if (type === ChunkType.offsetData && waiting.command === NbdCommand.read) {
    if (length < 9) throw new NbdProtocolViolation('a chunk of data has none');
    const offset = Number((yield* take(8)).readBigUInt64BE());
    yield claim(partial, offset, length - 8);
  } else if (type === ChunkType.offsetHole && waiting.command === NbdCommand.read) {
    if (length !== 12) throw new NbdProtocolViolation(`a hole is told in ${length} bytes instead of 12`);
    const hole = yield* take(12);
    claim(partial, Number(hole.readBigUInt64BE()), hole.readUInt32BE(8)).fill(0);
  } else if (type === ChunkType.blockStatus && waiting.command === NbdCommand.blockStatus) {
    yield* readStatus(partial, length, contextIds);
  } else {
    throw new NbdProtocolViolation(`a chunk of type ${type} does not fit the request`);
  }
}

/** The part of the caller's buffer for these bytes of the disk, which must be asked for and not yet there. */
function claim({ waiting, covered }: Partial, offset: number, length: number): Buffer {
  const start = offset - waiting.offset;
  if (length === 0 || start < 0 || start + length > waiting.length) {
    throw new NbdProtocolViolation(`${length} bytes at ${offset} are not what was to be read`);
  }
  covered.add(start, start + length);
  return waiting.into.subarray(start, start + length);
}

function* readError(waiting: Waiting, type: number, length: number): Reader<NbdServerError> {
  const trailer = type === ChunkType.errorOffset ? 8 : 0;
  if (length < 6 + trailer || length > 6 + trailer + MAX_ERROR_TEXT) {
    throw new NbdProtocolViolation(`an error is told in ${length} bytes`);
  }
  const data = yield* take(length);
  const [errno, words] = [data.readUInt32BE(), data.readUInt16BE(4)];
  if (errno === 0) throw new NbdProtocolViolation('an error has no number');
  if (6 + words + trailer > length) throw new NbdProtocolViolation('the text of an error is longer than its chunk');
  return serverError(waiting, errno, data.toString('utf8', 6, 6 + words));
}

function* readStatus({ waiting, status }: Partial, length: number, contextIds: readonly number[]): Reader<void> {
  const count = (length - 4) / 8;
  if (!Number.isInteger(count) || count < 1 || count > MAX_EXTENTS) {
    throw new NbdProtocolViolation(`extents are told in ${length} bytes`);
  }
  const data = yield* take(length);
  const id = data.readUInt32BE();
  if (!contextIds.includes(id)) throw new NbdProtocolViolation('it tells extents of a context that was not agreed on');
  if (status.has(id)) throw new NbdProtocolViolation('it tells the extents of a context twice');
  const extents: StatusExtent[] = [];
  let told = 0;
  for (let at = 4; at < length; at += 8) {
    // Only the last extent may reach beyond what was asked for.
    if (told >= waiting.length) throw new NbdProtocolViolation('it tells extents beyond what was asked for');
    const extent = { length: data.readUInt32BE(at), flags: data.readUInt32BE(at + 4) };
    if (extent.length === 0) throw new NbdProtocolViolation('an extent has no length');
    told += extent.length;
    extents.push(extent);
  }
  status.set(id, extents);
}

function requireWhole({ waiting, covered, status }: Partial, contextIds: readonly number[]): void {
  if (waiting.command === NbdCommand.read && !covered.isWhole(waiting.length)) {
    throw new NbdProtocolViolation('it says that a read is done before all bytes have come');
  }
  if (waiting.command === NbdCommand.blockStatus && status.size !== contextIds.length) {
    throw new NbdProtocolViolation('it does not tell the extents of every context');
  }
}

const NAMES: Readonly<Record<NbdCommand, string>> = {
  [NbdCommand.read]: 'read',
  [NbdCommand.write]: 'write',
  [NbdCommand.disconnect]: 'disconnect',
  [NbdCommand.flush]: 'flush',
  [NbdCommand.writeZeroes]: 'write zeroes',
  [NbdCommand.blockStatus]: 'tell the extents of',
};

/** The request in words that follow a verb, as `failed to`. */
export function describeRequest({ command, offset, length }: Pick<Waiting, 'command' | 'offset' | 'length'>): string {
  return command === NbdCommand.flush ? NAMES[command] : `${NAMES[command]} ${length} bytes at ${offset}`;
}

function serverError(waiting: Waiting, errno: number, words: string): NbdServerError {
  return new NbdServerError(describeRequest(waiting), errnoName(errno), words);
}

/** Which bytes of a read have come: disjoint runs in order, joined where they touch. */
class Coverage {
  readonly #runs: { start: number; end: number }[] = [];

  add(start: number, end: number): void {
    const runs = this.#runs;
    let index = runs.length;
    while (index > 0 && (runs[index - 1]?.start ?? 0) >= start) index -= 1;
    const before = runs[index - 1];
    const after = runs[index];
    if ((before !== undefined && before.end > start) || (after !== undefined && after.start < end)) {
      throw new NbdProtocolViolation('it sends the same bytes of a read twice');
    }
    const run = before?.end === start ? before : { start, end };
    run.end = end;
    if (run !== before) runs.splice(index, 0, run);
    if (after?.start === end) {
      run.end = after.end;
      runs.splice(runs.indexOf(after), 1);
    }
    if (runs.length > MAX_SCATTERED) throw new NbdProtocolViolation('it answers a read in too many scattered pieces');
  }

  isWhole(length: number): boolean {
    const [first] = this.#runs;
    return first?.start === 0 && first.end === length;
  }
}
