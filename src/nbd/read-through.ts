import type { Span } from '../core/extents.js';
import { IMAGE_CLUSTER } from '../core/image-cluster.js';
import type { NbdClient } from './client.js';
import { ALLOCATION, readExtents } from './meta-contexts.js';

/** An export from its first byte to its last, for who cannot write at an offset: first where its data are, then the data in order. */
export interface ReadThrough {
  /** The server answers rightly of no more than one cluster at a time: see `answersByCluster`. */
  readonly byCluster: boolean;
}

/**
 * What reads as zeros, in order; the client must have been connected with `ALLOCATION`.
 *
 * @throws as the client's `blockStatus`
 */
export async function zerosOf(client: NbdClient, { byCluster }: ReadThrough): Promise<readonly Span[]> {
  if (!byCluster) return (await readExtents(client)).zero;
  const { size } = client.export;
  const zero: { offset: number; length: number }[] = [];
  const batch = QUESTIONS * IMAGE_CLUSTER;
  for (let start = 0; start < size; start += batch) {
    const offsets: number[] = [];
    for (let at = start; at < Math.min(size, start + batch); at += IMAGE_CLUSTER) offsets.push(at);
    const clusters = offsets.map((offset) => ({ offset, length: Math.min(IMAGE_CLUSTER, size - offset) }));
    const answers = await Promise.all(clusters.map((cluster) => isZero(client, cluster)));
    for (const [index, { offset, length }] of clusters.entries()) {
      if (!answers[index]) continue;
      const last = zero.at(-1);
      if (last && last.offset + last.length === offset) last.length += length;
      else zero.push({ offset, length });
    }
  }
  return zero;
}

/** Requests under way at once. */
const QUESTIONS = 64;
const READS_AS_ZERO = 2;

async function isZero(client: NbdClient, { offset, length }: Span): Promise<boolean> {
  const status = await client.blockStatus(offset, length);
  let known = 0;
  for (const extent of status.get(ALLOCATION) ?? []) {
    if ((extent.flags & READS_AS_ZERO) === 0) return false;
    known += extent.length;
  }
  return known >= length;
}

/** The most that is read in one request, and that is read ahead of who takes it; bytes. */
const PIECE = 1024 * 1024;
const AHEAD = 8 * PIECE;

/**
 * The bytes of `spans`, in order; each chunk is valid until the next is asked for. What is not taken is not read: so much is read ahead
 * and no more.
 *
 * @throws as the client's `read`
 */
export async function* readInOrder(
  client: NbdClient,
  spans: readonly Span[],
  { byCluster }: ReadThrough,
): AsyncGenerator<Buffer, void> {
  const piece = byCluster ? IMAGE_CLUSTER : PIECE;
  const free: Buffer[] = Array.from({ length: AHEAD / piece }, () => Buffer.allocUnsafeSlow(piece));
  const under: Promise<{ readonly buffer: Buffer; readonly length: number }>[] = [];
  const begin = (buffer: Buffer, { offset, length }: Span): void => {
    const into = buffer.subarray(0, length);
    const reading = client.read(offset, into).then(() => ({ buffer, length }));
    // Whoever takes it hears of its failure; the others end with the connection.
    reading.catch(() => undefined);
    under.push(reading);
  };
  const pieces = piecesOf(spans, piece);
  for (;;) {
    while (free.length > 0) {
      const next = pieces.next();
      const buffer = next.done ? undefined : free.pop();
      if (next.done || !buffer) break;
      begin(buffer, next.value);
    }
    const read = await under.shift();
    if (!read) return;
    yield read.buffer.subarray(0, read.length);
    free.push(read.buffer);
  }
}

/** No piece lies across a multiple of `length`. */
function* piecesOf(spans: readonly Span[], length: number): Generator<Span, undefined, undefined> {
  for (const span of spans) {
    const end = span.offset + span.length;
    for (let at = span.offset; at < end;) {
      const next = Math.min(end, at - (at % length) + length);
      yield { offset: at, length: next - at };
      at = next;
    }
  }
  return undefined;
}
