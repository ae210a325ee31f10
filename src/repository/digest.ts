import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type ByteRange,
  type DigestMethod,
  differingRanges,
  hasDigest,
  lengthOfList,
  listOfPieces,
  methodOfPieces,
  PIECE_BYTES,
  pieceCount,
  rangeOfPiece,
  type PieceDigest,
  PIECES_SUFFIX,
  piecesInList,
  type RecordedDigest,
} from '../core/pieces.js';
import { inLanes } from '../flow/lanes.js';
import { codeOf, fileError } from '../host/file-errors.js';
import { createHasher, type Hasher } from '../host/hasher.js';
import { HASH_THREADS, type HashRange, type HashTask, mayHaveThreads, withHashThreads } from '../host/hash-threads.js';

/** Bytes hashed in one go: a millisecond or two, so that timers (the locks' refresh among them) get their turn. */
const CHUNK = 1024 * 1024;

/** Smaller files are hashed before threads have started. */
const FOR_THREADS = 32 * 1024 * 1024;

export interface DigestOptions {
  readonly signal?: AbortSignal | undefined;
  /** Gets the number of bytes hashed since its last call. */
  readonly onBytes?: ((count: number) => void) | undefined;
  /** Bytes per second; 0 or absent is no limit. */
  readonly rateLimit?: number | undefined;
  /** Meanwhile a program copies the same files, and wants processors too. */
  readonly besideCopy?: boolean | undefined;
}

export interface DigestByPieces {
  /** For the catalog. */
  readonly pieces: PieceDigest;
  readonly digests: readonly string[];
  /** They, as they stand beside the file. */
  readonly list: string;
}

/** @throws QmpBackupError for a file that cannot be read; the signal's reason when aborted */
export async function digestByPieces(
  path: string,
  method: DigestMethod,
  options: DigestOptions = {},
): Promise<DigestByPieces> {
  const { digests } = await hashPieces(path, { bytes: PIECE_BYTES, method }, options);
  return digestOfPieces(digests, { bytes: PIECE_BYTES, method });
}

/** Of a file whose pieces have these digests. */
export function digestOfPieces(
  digests: readonly string[],
  { bytes, method }: Required<Pick<PieceDigest, 'bytes' | 'method'>>,
): DigestByPieces {
  const list = listOfPieces(digests);
  return { pieces: { bytes, sha256: digestOfList(list), method }, digests, list };
}

/** The digest of a file whose bytes come one after the other, cut wherever. */
export class PieceHasher {
  readonly #of: Required<Pick<PieceDigest, 'bytes' | 'method'>>;
  readonly #digests: string[] = [];
  #hasher: Hasher | undefined;
  #left = 0;

  constructor(of: Required<Pick<PieceDigest, 'bytes' | 'method'>>) {
    this.#of = of;
  }

  update(chunk: Uint8Array): void {
    for (let at = 0; at < chunk.length;) {
      if (!this.#hasher) {
        this.#hasher = createHasher(this.#of.method);
        this.#left = this.#of.bytes;
      }
      const part = chunk.subarray(at, at + this.#left);
      this.#hasher.update(part);
      at += part.length;
      this.#left -= part.length;
      if (this.#left === 0) this.#endPiece();
    }
  }

  digest(): DigestByPieces {
    this.#endPiece();
    return digestOfPieces(this.#digests, this.#of);
  }

  #endPiece(): void {
    if (this.#hasher) this.#digests.push(this.#hasher.digest());
    this.#hasher = undefined;
  }
}

/** That the bytes of a file are others than were recorded; where, if that is known. */
export interface DigestFault {
  readonly ranges: readonly ByteRange[] | null;
}

/**
 * Reads a file to its end. Undefined where it holds what was recorded, or nothing was.
 *
 * @throws as `digestByPieces`
 */
export async function findDigestFault(
  path: string,
  recorded: RecordedDigest,
  options: DigestOptions = {},
): Promise<DigestFault | undefined> {
  if (!hasDigest(recorded)) return undefined;
  const { sha256, pieces } = recorded;
  if (!pieces) return (await sha256File(path, options)) === sha256 ? undefined : { ranges: null };
  const { bytes } = pieces;
  const { digests, size } = await hashPieces(path, { bytes, method: methodOfPieces(pieces) }, options);
  if (digestOfList(listOfPieces(digests)) === pieces.sha256) return undefined;
  const list = await readPieces(path, pieces, digests.length);
  return { ranges: list ? differingRanges(digests, list, { bytes, size }) : null };
}

/** The list beside a file, proved by the catalog; undefined where there is none that is the recorded one. */
export async function readPieces(
  path: string,
  pieces: PieceDigest,
  count: number,
): Promise<readonly string[] | undefined> {
  const beside = `${path}${PIECES_SUFFIX}`;
  const method = methodOfPieces(pieces);
  try {
    const handle = await open(beside, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      const { size } = await handle.stat();
      if (size !== lengthOfList(count, method)) return undefined;
      const list = await handle.readFile('latin1');
      return digestOfList(list) === pieces.sha256 ? piecesInList(list, count, method) : undefined;
    } finally {
      await handle.close();
    }
  } catch (error) {
    // A link is no list, and not followed; a folder is none either.
    if (['ENOENT', 'ELOOP', 'EISDIR'].includes(codeOf(error) ?? '')) return undefined;
    throw fileError('read', beside, error);
  }
}

/** The digest of each piece, and the length of the file in bytes. */
async function hashPieces(
  path: string,
  { bytes, method }: Required<Pick<PieceDigest, 'bytes' | 'method'>>,
  options: DigestOptions,
): Promise<{ readonly digests: readonly string[]; readonly size: number }> {
  return reading(path, options, async (handle) => {
    const { size } = await handle.stat();
    const pieces = Array.from({ length: pieceCount(size, bytes) }, (_, index) => rangeOfPiece(index, { bytes, size }));
    return { digests: await hashRanges(handle, pieces, method, options), size };
  });
}

/** The digests of parts of a file, each as of a piece. @throws as `digestByPieces` */
export function digestsOfRanges(
  path: string,
  ranges: readonly ByteRange[],
  method: DigestMethod,
  options: DigestOptions,
): Promise<readonly string[]> {
  return reading(path, options, (handle) => hashRanges(handle, ranges, method, options));
}

async function hashRanges(
  handle: FileHandle,
  ranges: readonly ByteRange[],
  method: DigestMethod,
  options: DigestOptions,
): Promise<readonly string[]> {
  const pace = paceOf(options);
  const all = ranges.reduce((sum, { start, end }) => sum + end - start, 0);
  // Ends when all have ended: none may read from a file that is closed, and whose number may be another file's.
  const hashAll = (lanes: number, hash: HashRange): Promise<readonly string[]> =>
    inLanes(ranges, lanes, async ({ start, end }) => {
      const digest = await hash({ fd: handle.fd, start, length: end - start, method });
      await pace(end - start);
      return digest;
    });
  return all < FOR_THREADS || !mayHaveThreads()
    ? hashAll(1, hasherOf(handle, options.signal, all))
    : withHashThreads((hash) => hashAll(lanesFor(method, options), hash));
}

/** One thread makes GMAC of more than any program copies meanwhile, and a second one would only slow the copy. */
function lanesFor(method: DigestMethod, { besideCopy = false }: DigestOptions): number {
  return besideCopy && method === 'gmac' ? 1 : HASH_THREADS;
}

/** The digest of a part of a file that is open, made in this thread. Rejects with the error of the read. */
export function digestOfRange(
  handle: FileHandle,
  { start, end }: ByteRange,
  method: DigestMethod,
  signal: AbortSignal,
): Promise<string> {
  return hasherOf(handle, signal)({ fd: handle.fd, start, length: end - start, method });
}

/** In this thread. `longest`: bytes of the longest part, for thousands of small files are hashed one after the other. */
function hasherOf(handle: FileHandle, signal: AbortSignal | undefined, longest = CHUNK): HashRange {
  const buffers = newBuffers(longest);
  return async ({ start, length, method }) => {
    const hash = createHasher(method);
    for await (const chunk of chunksOf(handle, { start, length }, buffers)) {
      signal?.throwIfAborted();
      hash.update(chunk);
    }
    return hash.digest();
  };
}

/** SHA-256 of a file's content in hexadecimal. @throws as `digestByPieces` */
export async function sha256File(path: string, options: DigestOptions = {}): Promise<string> {
  return reading(path, options, async (handle) => {
    const hash = createHash('sha256');
    const pace = paceOf(options);
    for await (const chunk of chunksOf(handle, { start: 0, length: Infinity }, newBuffers())) {
      hash.update(chunk);
      await pace(chunk.length);
    }
    return hash.digest('hex');
  });
}

type Buffers = readonly [Buffer, Buffer];

function newBuffers(longest = CHUNK): Buffers {
  const bytes = Math.min(CHUNK, longest);
  return [Buffer.allocUnsafeSlow(bytes), Buffer.allocUnsafeSlow(bytes)];
}

/** The first `length` bytes of a file; each chunk is valid until the next is asked for. */
export function chunksIn(handle: FileHandle, length: number): AsyncGenerator<Buffer> {
  return chunksOf(handle, { start: 0, length }, newBuffers(length));
}

/** Two buffers take turns: one is read into while the other is used, which is until the next chunk is asked for. */
async function* chunksOf(
  handle: FileHandle,
  { start, length }: Pick<HashTask, 'start' | 'length'>,
  buffers: Buffers,
): AsyncGenerator<Buffer> {
  let [reading, using] = buffers;
  let [at, left] = [start, length];
  const read = (): Promise<{ readonly bytesRead: number }> =>
    handle.read(reading, 0, Math.min(reading.length, left), at);
  let { bytesRead } = await read();
  while (bytesRead > 0) {
    [reading, using] = [using, reading];
    at += bytesRead;
    left -= bytesRead;
    const next = left > 0 ? read() : { bytesRead: 0 };
    const chunk = using.subarray(0, bytesRead);
    try {
      yield chunk;
    } finally {
      // Also where who uses it has failed: the file is closed then.
      ({ bytesRead } = await next);
    }
  }
}

/** Tells of what was hashed, keeps to the rate, and ends with the signal. */
function paceOf({ signal, onBytes, rateLimit = 0 }: DigestOptions): (bytes: number) => Promise<void> {
  let due = performance.now();
  return async (bytes) => {
    onBytes?.(bytes);
    signal?.throwIfAborted();
    if (rateLimit === 0) return;
    due += (bytes / rateLimit) * 1000;
    await sleep(Math.max(0, due - performance.now()), undefined, { signal });
  };
}

async function reading<T>(
  path: string,
  { signal }: DigestOptions,
  body: (handle: FileHandle) => Promise<T>,
): Promise<T> {
  signal?.throwIfAborted();
  try {
    const handle = await open(path, 'r');
    try {
      return await body(handle);
    } finally {
      await handle.close();
    }
  } catch (error) {
    signal?.throwIfAborted();
    throw fileError('read', path, error);
  }
}

/** What the catalog has of a list of pieces. */
export function digestOfList(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
