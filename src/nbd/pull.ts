/**
 * Moves ranges of a disk from a source into a sink, several pieces at a time. Memory is bounded by the pieces in
 * flight: each has one buffer, which is read into and written from without a copy.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type Range, totalLength } from '../domain/extents.js';
import type { NbdClient } from './client.js';

/** Bytes throughout; an `NbdClient` is one. */
export interface PullSource {
  readonly read: (offset: number, into: Buffer) => Promise<void>;
}

/** Where pulled bytes go. Calls overlap, of ranges that do not. */
export interface PullSink {
  readonly write: (offset: number, data: Buffer) => Promise<void>;
  /** The range must read as zeros afterwards, whatever a parent has there. */
  readonly zero: (offset: number, length: number) => Promise<void>;
  /** Called once, when all is written: resolves when it is on storage. */
  readonly finish: () => Promise<void>;
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

/**
 * Pulls all ranges, then finishes the sink. Where it rejects, requests may still be under way: what they are made of
 * (connections, processes) must be ended before the target is touched again.
 *
 * @throws what source or sink throw; the signal's reason.
 */
export async function pull(
  source: PullSource,
  ranges: readonly Range[],
  sink: PullSink,
  options: PullOptions = {},
): Promise<void> {
  const { signal, onProgress, inFlight = IN_FLIGHT, pieceSize = MiB } = options;
  const total = totalLength(ranges);
  const pieces = piecesOf(ranges, pieceSize);
  const pace = paceOf(options.rateLimit ?? 0);
  let done = 0;
  let failed = false;

  const work = async (): Promise<void> => {
    let slot: Buffer | undefined;
    for (const { kind, offset, length } of pieces) {
      if (kind === 'zero') {
        await sink.zero(offset, length);
      } else {
        await pace(length, signal);
        slot ??= Buffer.allocUnsafeSlow(pieceSize);
        const data = slot.subarray(0, length);
        await source.read(offset, data);
        await sink.write(offset, data);
      }
      signal?.throwIfAborted();
      if (failed) return;
      done += length;
      onProgress?.({ done, total });
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
  await sink.finish();
}

/** An NBD server that the pulled image is behind. `finish` flushes and reads the reply; closing is the caller's. */
export function sinkOf(client: NbdClient): PullSink {
  return {
    write: (offset, data) => client.write(offset, data),
    zero: (offset, length) => client.writeZeroes(offset, length),
    finish: () => client.flush(),
  };
}

function* piecesOf(ranges: readonly Range[], pieceSize: number): Generator<Range, void, undefined> {
  for (const { kind, offset, length } of ranges) {
    const step = kind === 'data' ? pieceSize : LONGEST_ZERO;
    const end = offset + length;
    for (let at = offset; at < end;) {
      const next = Math.min(end, at - (at % step) + step);
      yield { kind, offset: at, length: next - at };
      at = next;
    }
  }
}

/** Holds each piece back until its turn, so that the pieces together keep to the rate. */
function paceOf(bytesPerSecond: number): (length: number, signal?: AbortSignal) => Promise<void> {
  let turn = performance.now();
  return async (length, signal) => {
    if (bytesPerSecond <= 0) return;
    const now = performance.now();
    // Time that passed unused is not made up for later.
    turn = Math.max(turn, now);
    const wait = turn - now;
    turn += (length / bytesPerSecond) * 1000;
    if (wait > 0) await sleep(wait, undefined, { signal });
  };
}
