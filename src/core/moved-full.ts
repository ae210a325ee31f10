import type { Span } from './extents.js';
import { pieceCount } from './pieces.js';
import { clusterOf } from './qcow2-tables.js';

/**
 * What is known of an image into which increments were written, in a copy of its file: which bytes of the file were written, and
 * which parts of the disk were meant to be.
 */

/** The pieces of the new file in which bytes may be others than in the old one. Lengths in bytes. */
export function piecesWritten(
  written: readonly Span[],
  { bytes, before, after }: { readonly bytes: number; readonly before: number; readonly after: number },
): ReadonlySet<number> {
  const pieces = new Set<number>();
  const add = (start: number, end: number): void => {
    for (let piece = Math.floor(start / bytes); piece * bytes < end; piece += 1) pieces.add(piece);
  };
  for (const { offset, length } of written) add(offset, Math.min(after, offset + length));
  // The last piece has another length.
  if (before !== after) add(Math.max(0, Math.min(before, after) - 1), after);
  const count = pieceCount(after, bytes);
  return new Set([...pieces].filter((piece) => piece < count));
}

/** Spans that are asked for bytes. */
export class SpanIndex {
  readonly #spans: readonly Span[];

  /** @param spans in order and disjoint */
  constructor(spans: readonly Span[]) {
    this.#spans = spans;
  }

  overlaps(start: number, end: number): boolean {
    let [low, high] = [0, this.#spans.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      const span = this.#spans[middle];
      if (span && span.offset + span.length <= start) low = middle + 1;
      else high = middle;
    }
    const span = this.#spans[low];
    return span !== undefined && span.offset < end;
  }
}

export interface WrittenImage {
  readonly clusterBits: number;
  /** Parts of the disk, whole clusters, that were written; those of `zeros` with zeros. */
  readonly merged: SpanIndex;
  readonly zeros: SpanIndex;
  /** Bytes of its file that were written. */
  readonly written: SpanIndex;
}

/**
 * Compares two L2 tables of the same part of a disk, before and after: a cluster that was not merged has to be where it was, and nothing
 * may have been written there. `onData` gets the clusters of `zeros` that have data all the same.
 *
 * @param first number of the first cluster
 * @returns the first byte of the disk that is not where it has to be
 */
export function misplacedIn(
  before: Buffer,
  after: Buffer,
  first: number,
  { clusterBits, merged, zeros, written }: WrittenImage,
  onData: (cluster: Span) => void,
): number | undefined {
  const length = 2 ** clusterBits;
  for (let at = 0; at < after.length; at += 8) {
    const isSame =
      before.readInt32BE(at) === after.readInt32BE(at) && before.readInt32BE(at + 4) === after.readInt32BE(at + 4);
    if (isSame && after.readInt32BE(at) === 0 && after.readInt32BE(at + 4) === 0) continue;
    const offset = (first + at / 8) * length;
    const place = clusterOf(after.readBigUInt64BE(at), clusterBits);
    const hasData = typeof place !== 'string';
    if (merged.overlaps(offset, offset + length)) {
      if (hasData && zeros.overlaps(offset, offset + length)) onData({ offset, length });
    } else if (!isSame || (hasData && written.overlaps(place.start, place.end))) return offset;
  }
  return undefined;
}
