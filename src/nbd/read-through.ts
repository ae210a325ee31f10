import { joinSpans, rangesWithout, roundOut, type Span } from '../core/extents.js';
import { IMAGE_CLUSTER } from '../core/image-cluster.js';
import type { NbdClient } from './client.js';
import { ALLOCATION, changesContext, OWN_CLUSTERS, readExtents } from './meta-contexts.js';

/** An export from its first byte to its last, for who cannot write at an offset: first where its data are, then the data in order. */
export interface ReadThrough {
  /**
   * Where the server answers wrongly of several clusters at once if the guest has overwritten one of them (see `answersByCluster`):
   * what it has overwritten, connected as by `OVERWRITTEN_CONTEXTS`. Clusters that are there afterwards are asked for one by one.
   */
  readonly overwritten: NbdClient | null;
}

export const OVERWRITTEN_CONTEXTS: readonly string[] = [ALLOCATION, changesContext(OWN_CLUSTERS)];

/**
 * What reads as zeros, in order; the client must have been connected with `ALLOCATION`.
 *
 * @throws as the client's `blockStatus`
 */
export async function zerosOf(client: NbdClient, { overwritten }: ReadThrough): Promise<readonly Span[]> {
  const { zero } = await readExtents(client);
  if (!overwritten) return zero;
  const doubtful = await clustersIn(overwritten, { offset: 0, length: client.export.size });
  const zeroAfterAll: Span[] = [];
  for (let at = 0; at < doubtful.length; at += QUESTIONS) {
    const asked = doubtful.slice(at, at + QUESTIONS);
    const answers = await Promise.all(asked.map((cluster) => isZero(client, cluster)));
    zeroAfterAll.push(...asked.filter((_, index) => answers[index]));
  }
  const certain = rangesWithout(
    zero.map((span) => ({ ...span, kind: 'zero' })),
    joinSpans(doubtful),
  );
  return joinSpans([...certain, ...zeroAfterAll]);
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

/** Those of a part of the disk that hold what the guest has overwritten, each by itself. */
async function clustersIn(overwritten: NbdClient, part: Span): Promise<readonly Span[]> {
  const { dirty = [] } = await readExtents(overwritten, OWN_CLUSTERS, undefined, part);
  const clusters = roundOut(dirty, { size: part.offset + part.length, clusterSize: IMAGE_CLUSTER });
  return [...piecesOf(clusters, IMAGE_CLUSTER)];
}

/** The most that is read in one request, and that is read ahead of who takes it; bytes. */
const PIECE = 1024 * 1024;
const AHEAD = 16 * 1024 * 1024;
/** Connections that are worth it: a server goes on with one while it waits until what it has sent by another is taken. */
export const READERS = 4;

interface Chunk {
  readonly offset: number;
  readonly bytes: Buffer;
  /** That the bytes are in. */
  readonly buffer: Buffer;
}

/**
 * The bytes of `spans`, in order and with their offsets, by several connections to the same export; each chunk is valid until the next is asked for. What is not taken is not read: so much is read ahead
 * and no more.
 *
 * @throws as the client's `read`
 */
export async function* readInOrder(
  clients: readonly NbdClient[],
  spans: readonly Span[],
  { overwritten }: ReadThrough,
): AsyncGenerator<Chunk, void> {
  const free: Buffer[] = Array.from({ length: AHEAD / PIECE }, () => Buffer.allocUnsafeSlow(PIECE));
  const under: Promise<Chunk>[] = [];
  const begin = (client: NbdClient, buffer: Buffer, span: Span): void => {
    const { offset, length } = span;
    const reading = readPiece(client, span, buffer, overwritten).then(() => ({
      ...{ offset, buffer, bytes: buffer.subarray(0, length) },
    }));
    // Whoever takes it hears of its failure; the others end with the connection.
    reading.catch(() => undefined);
    under.push(reading);
  };
  const pieces = piecesOf(spans, PIECE);
  let turn = 0;
  for (;;) {
    while (free.length > 0) {
      const next = pieces.next();
      const [client, buffer] = next.done ? [] : [clients[turn++ % clients.length], free.pop()];
      if (next.done || !client || !buffer) break;
      begin(client, buffer, next.value);
    }
    const read = await under.shift();
    if (!read) return;
    yield read;
    free.push(read.buffer);
  }
}

/** What was not overwritten when all was read was read rightly. */
async function readPiece(client: NbdClient, span: Span, into: Buffer, overwritten: NbdClient | null): Promise<void> {
  await client.read(span.offset, into.subarray(0, span.length));
  if (!overwritten) return;
  const clusters = await clustersIn(overwritten, span);
  const read = ({ offset, length }: Span): Promise<void> =>
    client.read(offset, into.subarray(offset - span.offset, offset - span.offset + length));
  await Promise.all(clusters.map(read));
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
