import { Xxh32, xxh32 } from '../core/xxh32.js';
import { QmpBackupError } from '../errors.js';
import { exactly, type Parser } from './byte-feed.js';

/**
 * Decodes LZ4 frames (the format of the `lz4` program, version 1.6 of its description), block by block: at most two
 * blocks are in memory. Every checksum that a frame carries is checked.
 */
const MAGIC = 0x184d2204;
/** How far back a match may reach, bytes. */
const HISTORY = 65_536;
const LEAST_MATCH = 4;

/**
 * One frame, which may hold at most `limit` bytes; gives what `emit` makes of each decoded block, and returns the
 * lengths of the frame and of its content in bytes. An emitted block is valid until the next one.
 *
 * @throws QmpBackupError `damaged`
 */
export function* lz4Frame<E>(
  limit: number,
  emit: (block: Uint8Array) => E,
): Parser<E, { readonly length: number; readonly content: number }> {
  const header = yield* frameHeader();
  const window = new Uint8Array(HISTORY + header.blockSize);
  const hash = new Xxh32();
  let { length } = header;
  let content = 0;
  let history = 0;
  for (;;) {
    const word = u32(yield* exactly(4), 0);
    length += 4;
    if (word === 0) break;
    const [size, stored] = [word & 0x7fff_ffff, word >= 0x8000_0000];
    if (size > header.blockSize) throw damaged(`a block of ${size} bytes in a frame of blocks of ${header.blockSize}`);
    const bytes = yield* exactly(size + (header.blockChecksum ? 4 : 0));
    length += bytes.length;
    const block = bytes.subarray(0, size);
    if (header.blockChecksum) checkSum(u32(bytes, size), xxh32(block), 'of a block');
    const room = Math.min(header.blockSize, limit - content);
    const end = stored ? copyBlock(block, window, history, room) : lz4Block(block, window, history, room);
    const decoded = window.subarray(history, end);
    content += decoded.length;
    hash.update(decoded);
    yield emit(decoded);
    if (header.linked) {
      const kept = Math.min(end, HISTORY);
      window.copyWithin(0, end - kept, end);
      history = kept;
    }
  }
  if (header.contentChecksum) {
    checkSum(u32(yield* exactly(4), 0), hash.digest(), 'of the content');
    length += 4;
  }
  if (header.contentSize !== null && header.contentSize !== content) {
    throw damaged(`${content} bytes where ${header.contentSize} were announced`);
  }
  return { length, content };
}

interface FrameHeader {
  readonly linked: boolean;
  readonly blockChecksum: boolean;
  readonly contentChecksum: boolean;
  /** Bytes that a block decodes to at most. */
  readonly blockSize: number;
  readonly contentSize: number | null;
  /** Bytes of the header itself. */
  readonly length: number;
}

function* frameHeader(): Parser<never, FrameHeader> {
  const begin = yield* exactly(6);
  if (u32(begin, 0) !== MAGIC) throw damaged('its magic number is missing');
  const [flags = 0, sizes = 0] = begin.subarray(4);
  if (flags >>> 6 !== 1 || (flags & 0b10) !== 0 || (sizes & 0b1000_1111) !== 0)
    throw damaged('a version not known here');
  if ((flags & 0b1) !== 0) throw damaged('it needs a dictionary');
  const exponent = sizes >>> 4;
  if (exponent < 4) throw damaged('its size of blocks is unknown');
  const withSize = (flags & 0b1000) !== 0;
  const rest = yield* exactly(withSize ? 9 : 1);
  const descriptor = new Uint8Array([flags, sizes, ...rest.subarray(0, -1)]);
  if (((xxh32(descriptor) >>> 8) & 0xff) !== rest.at(-1)) throw damaged('the checksum of its header is wrong');
  return {
    linked: (flags & 0b10_0000) === 0,
    blockChecksum: (flags & 0b1_0000) !== 0,
    contentChecksum: (flags & 0b100) !== 0,
    blockSize: 2 ** (8 + 2 * exponent),
    contentSize: withSize ? u32(rest, 0) + u32(rest, 4) * 0x1_0000_0000 : null,
    length: begin.length + rest.length,
  };
}

/** A block that was not worth compressing. Both return the end of what is now in `window`. */
function copyBlock(block: Uint8Array, window: Uint8Array, start: number, room: number): number {
  if (block.length > room) throw tooLong();
  window.set(block, start);
  return start + block.length;
}

/** Decodes one block to `window` from `start`; before that is the history which its matches may copy from. */
function lz4Block(block: Uint8Array, window: Uint8Array, start: number, room: number): number {
  const end = start + room;
  let [from, to] = [0, start];
  while (from < block.length) {
    const token = block[from] ?? 0;
    from += 1;
    let literals = token >>> 4;
    if (literals === 15) [literals, from] = longer(literals, block, from);
    if (from + literals > block.length) throw damaged('a block ends within its literals');
    if (to + literals > end) throw tooLong();
    copyLiterals(block, from, window, to, literals);
    from += literals;
    to += literals;
    // The last sequence of a block has no match.
    if (from === block.length) return to;
    if (from + 2 > block.length) throw damaged('a block ends within a match');
    const distance = (block[from] ?? 0) | ((block[from + 1] ?? 0) << 8);
    from += 2;
    if (distance === 0 || distance > to) throw damaged('a match points before the beginning');
    let match = token & 0xf;
    if (match === 15) [match, from] = longer(match, block, from);
    match += LEAST_MATCH;
    if (to + match > end) throw tooLong();
    copyMatch(window, to, distance, match);
    to += match;
  }
  throw damaged('a block has no end');
}

/** Most copies are of a few bytes, and a loop is quicker for those than a call is. */
const FEW = 32;

function copyLiterals(block: Uint8Array, from: number, window: Uint8Array, to: number, length: number): void {
  if (length > FEW) window.set(block.subarray(from, from + length), to);
  else for (let at = 0; at < length; at += 1) window[to + at] = block[from + at] ?? 0;
}

/** What is copied may be what this copy itself makes, over and over. */
function copyMatch(window: Uint8Array, to: number, distance: number, length: number): void {
  if (length <= FEW) {
    for (let at = to; at < to + length; at += 1) window[at] = window[at - distance] ?? 0;
    return;
  }
  for (let done = 0; done < length;) {
    // Each copy doubles what can be copied at once.
    const part = Math.min(distance + done, length - done);
    window.copyWithin(to + done, to - distance, to - distance + part);
    done += part;
  }
}

function longer(length: number, block: Uint8Array, at: number): [length: number, at: number] {
  let [sum, next] = [length, at];
  for (;;) {
    const byte = block[next];
    if (byte === undefined) throw damaged('a block ends within a length');
    sum += byte;
    next += 1;
    if (byte < 255) return [sum, next];
  }
}

function checkSum(recorded: number, counted: number, of: string): void {
  if (recorded !== counted) throw damaged(`the checksum ${of} is wrong`);
}

function u32(bytes: Uint8Array, at: number): number {
  const [a = 0, b = 0, c = 0, d = 0] = bytes.subarray(at, at + 4);
  return (a | (b << 8) | (c << 16) | (d << 24)) >>> 0;
}

function tooLong(): QmpBackupError {
  return damaged('more content than it may have');
}

function damaged(why: string): QmpBackupError {
  return new QmpBackupError('damaged', `an LZ4 frame cannot be decoded: ${why}`);
}
