/**
 * Moves ranges of a disk from a source into a sink, several pieces at a time. Memory is bounded by the pieces in
 * flight: each has one buffer, which is read into and written from without a copy.
 */
import { type Range, totalLength } from '../core/extents.js';
import type { NbdClient } from './client.js';
import { paceOf } from './pace.js';

/** Bytes throughout; an `NbdClient` is one. */
export interface PullSource {
  readonly read: (offset: number, into: Buffer) => Promise<void>;
}

/** Where pulled bytes go. Calls overlap, of ranges that do not. */
export interface PullSink {
  readonly write: (offset: number, data: Buffer) => Promise<void>;
  /** The range must read as zeros afterwards, whatever a parent has there. */
  readonly zero: (offset: number, length: number) => Promise<void>;
  /** Resolves when all that was written before is on storage. */
  readonly flush: () => Promise<void>;
}

export interface PullProgress {
  /** Bytes of the ranges that are in the sink, zeros included. */
  readonly done: number;
  readonly total: number;
}

export interface PullOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: PullProgress) => void) | undefined;
  /** Bytes of data per second; 0 or absent is no limit. */
  readonly rateLimit?: number | undefined;
  /** Bytes after which the sink is flushed, and waited for, so that what is written is on storage little by little. */
  readonly flushEvery?: number | undefined;
  /** Pieces that are read or written at once. */
  readonly inFlight?: number;
  /** Bytes of a piece at most; pieces end at multiples of it. */
  readonly pieceSize?: number;
}

const MiB = 1024 * 1024;
/** Half of them are read while the others are written. Neither more nor fewer was seen to be faster. */
const IN_FLIGHT = 16;
/** A server need not hold a buffer for zeros, but it may have to write them one by one. */
const LONGEST_ZERO = 128 * MiB;

/** Ranges that are told on the way, in order. */
export interface ToldRanges {
  readonly ranges: AsyncIterable<Range>;
  /** Bytes that they have at most. */
  readonly total: number;
}

/**
 * Pulls all ranges, then flushes the sink. Where it rejects, requests may still be under way: what they are made of
 * (connections, processes) must be ended before the target is touched again.
 *
 * @throws what source or sink throw; the signal's reason.
 */
export async function pull(
  source: PullSource,
  ranges: readonly Range[] | ToldRanges,
  sink: PullSink,
  options: PullOptions = {},
): Promise<void> {
  const { signal, onProgress, flushEvery = Infinity, inFlight = IN_FLIGHT, pieceSize = MiB } = options;
  const [total, all] = 'total' in ranges ? [ranges.total, ranges.ranges] : [totalLength(ranges), ranges];
  const pieces = piecesOf(all, pieceSize);
  const pace = paceOf(options.rateLimit ?? 0);
  let done = 0;
  let failed = false;
  let unflushed = 0;
  let flushing: Promise<void> | undefined;

  const work = async (): Promise<void> => {
    let slot: Buffer | undefined;
    for await (const { kind, offset, length } of pieces) {
      await flushing;
      if (kind === 'zero') {
        await sink.zero(offset, length);
      } else {
        await pace(length, signal);
        slot ??= Buffer.allocUnsafeSlow(pieceSize);
        const data = slot.subarray(0, length);
        await source.read(offset, data);
        await sink.write(offset, data);
        unflushed += length;
      }
      signal?.throwIfAborted();
      if (failed) return;
      done += length;
      onProgress?.({ done, total });
      if (unflushed >= flushEvery) {
        unflushed = 0;
        flushing = sink.flush();
        await flushing;
      }
    }
  };

  signal?.throwIfAborted();
  // All take from one generator; the first that leaves early ends it for the others.
  await Promise.all(
    Array.from({ length: inFlight }, async () => {
      try {
        await work();
      } catch (error) {
        failed = true;
        throw error;
      }
    }),
  );
  await sink.flush();
}

/** An NBD server that the pulled image is behind. `flush` reads the reply; closing is the caller's. */
export function sinkOf(client: NbdClient): PullSink {
  return {
    write: (offset, data) => client.write(offset, data),
    zero: (offset, length) => client.writeZeroes(offset, length),
    flush: () => client.flush(),
  };
}

async function* piecesOf(
  ranges: Iterable<Range> | AsyncIterable<Range>,
  pieceSize: number,
): AsyncGenerator<Range, void, undefined> {
  for await (const { kind, offset, length } of ranges) {
    const step = kind === 'data' ? pieceSize : LONGEST_ZERO;
    const end = offset + length;
    for (let at = offset; at < end;) {
      const next = Math.min(end, at - (at % step) + step);
      yield { kind, offset: at, length: next - at };
      at = next;
    }
  }
}
