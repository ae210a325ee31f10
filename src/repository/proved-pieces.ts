import type { FileHandle } from 'node:fs/promises';
import type { FileFault } from '../core/file-record.js';
import { type ByteRange, hasDigest, methodOfPieces, pieceCount, rangeOfPiece } from '../core/pieces.js';
import type { HashRange } from '../host/hash-threads.js';
import { damagedAt, whyDamaged } from './check-file.js';
import { digestOfRange, readPieces } from './digest.js';
import type { OpenFile } from './open-point.js';

/** What is not what was sealed: the pieces that a part of a file touches, or all of it. */
export interface BadPieces {
  readonly fault: FileFault;
  readonly ranges: readonly ByteRange[];
}

/** The pieces of one file (decision 24), each hashed once; without a list of them the file is proved as a whole. */
export class ProvedPieces {
  readonly #file: OpenFile;
  readonly #hash: HashRange | undefined;
  #digests: Promise<readonly string[] | null> | undefined;
  #whole: Promise<FileFault | undefined> | undefined;
  readonly #good = new Set<number>();
  readonly #asked = new Map<number, Promise<boolean>>();

  /** @param hash in other threads; without, it is done in this one */
  constructor(file: OpenFile, hash?: HashRange) {
    this.#file = file;
    this.#hash = hash;
  }

  /** Undefined where all is well, or where no digest tells. @throws what reading throws; the signal's reason */
  async badIn(handle: FileHandle, { start, end }: ByteRange, signal: AbortSignal): Promise<BadPieces | undefined> {
    const { path, entry } = this.#file;
    const { size, pieces } = entry;
    if (!hasDigest(entry)) return undefined;
    const digests = await (this.#digests ??= listOf(this.#file));
    if (!digests || !pieces) {
      const fault = await (this.#whole ??= whyDamaged(path, entry, { signal }));
      return fault && { fault, ranges: [{ start: 0, end: size }] };
    }
    const { bytes } = pieces;
    const method = methodOfPieces(pieces);
    const bad: ByteRange[] = [];
    for (let piece = Math.floor(start / bytes); piece < Math.min(digests.length, Math.ceil(end / bytes)); piece += 1) {
      if (this.#good.has(piece)) continue;
      signal.throwIfAborted();
      const range = rangeOfPiece(piece, { bytes, size });
      const digest = (): Promise<string> =>
        this.#hash
          ? this.#hash({ fd: handle.fd, start: range.start, length: range.end - range.start, method })
          : digestOfRange(handle, range, method, signal);
      const asked = this.#asked.get(piece) ?? digest().then((found) => found === digests[piece]);
      this.#asked.set(piece, asked);
      if (await asked) {
        this.#good.add(piece);
        this.#asked.delete(piece);
      } else {
        bad.push(range);
      }
    }
    return bad.length === 0 ? undefined : { fault: damagedAt({ ranges: bad }), ranges: bad };
  }
}

/** Null where the file has to be read as a whole. */
async function listOf({ path, entry: { pieces, size } }: OpenFile): Promise<readonly string[] | null> {
  if (!pieces) return null;
  const count = pieceCount(size, pieces.bytes);
  return count > 1 ? ((await readPieces(path, pieces, count)) ?? null) : null;
}
