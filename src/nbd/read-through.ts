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

/** The most that is read in one request: of smaller ones a server makes less a second, of larger ones fewer are under way. */
const PIECE = 512 * 1024;
/** What is asked for at once where a server answers wrongly; bytes. */
const WINDOW = 2 * 1024 * 1024;
/** The most that is read ahead of who takes it: more leaves the cache of a processor, and is slower. */
const AHEAD = 3 * WINDOW;
/** Connections that are worth it: a server goes on with one while it waits until what it has sent by another is taken. */
export const READERS = 2;

interface Chunk {
  readonly offset: number;
  readonly bytes: Buffer;
}

/**
 * The bytes of `spans`, which begin at multiples of a cluster, in order and with their offsets, by several connections to the same export;
 * each chunk is valid until the next is asked for. What is not taken is not read: so much is read ahead and no more.
 *
 * @throws as the client's `read`
 */
export async function* readInOrder(
  clients: readonly NbdClient[],
  spans: readonly Span[],
  { overwritten }: ReadThrough,
): AsyncGenerator<Chunk, void> {
  const free: Buffer[] = Array.from({ length: AHEAD / WINDOW }, () => Buffer.allocUnsafeSlow(WINDOW));
  const under: { readonly buffer: Buffer; readonly chunks: Promise<readonly Chunk[]> }[] = [];
  const windows = windowsOf(piecesOf(spans, PIECE));
  let turn = 0;
  const read = async ({ offset, bytes }: Chunk): Promise<void> => clients[turn++ % clients.length]?.read(offset, bytes);
  for (;;) {
    for (let buffer = free.pop(); buffer; buffer = free.pop()) {
      const next = windows.next();
      if (next.done) break;
      const chunks = readWindow(placed(next.value, buffer), read, overwritten);
      // Whoever takes it hears of its failure; the others end with the connection.
      chunks.catch(() => undefined);
      under.push({ buffer, chunks });
    }
    const oldest = under.shift();
    if (!oldest) return;
    yield* await oldest.chunks;
    free.push(oldest.buffer);
  }
}

function placed(pieces: readonly Span[], buffer: Buffer): readonly Chunk[] {
  let end = 0;
  return pieces.map(({ offset, length }) => ({ offset, bytes: buffer.subarray(end, (end += length)) }));
}

/** What was not overwritten when all was read was read rightly. */
async function readWindow(
  chunks: readonly Chunk[],
  read: (chunk: Chunk) => Promise<void>,
  overwritten: NbdClient | null,
): Promise<readonly Chunk[]> {
  await Promise.all(chunks.map(read));
  const [first, last] = [chunks[0], chunks.at(-1)];
  if (!overwritten || !first || !last) return chunks;
  const length = last.offset + last.bytes.length - first.offset;
  const clusters = await clustersIn(overwritten, { offset: first.offset, length });
  // None lies across the end of a chunk.
  const doubtful = clusters.flatMap((cluster) => {
    const chunk = chunks.find(
      ({ offset, bytes }) => cluster.offset >= offset && cluster.offset < offset + bytes.length,
    );
    if (!chunk) return [];
    const at = cluster.offset - chunk.offset;
    return [{ offset: cluster.offset, bytes: chunk.bytes.subarray(at, at + cluster.length) }];
  });
  await Promise.all(doubtful.map(read));
  return chunks;
}

/** Pieces that lie in the same multiple of a window, together. */
function* windowsOf(pieces: Iterable<Span>): Generator<readonly Span[], undefined, undefined> {
  let window: Span[] = [];
  const numberOf = ({ offset }: Span): number => Math.floor(offset / WINDOW);
  for (const piece of pieces) {
    const [first] = window;
    if (first && numberOf(first) !== numberOf(piece)) {
      yield window;
      window = [];
    }
    window.push(piece);
  }
  if (window.length > 0) yield window;
  return undefined;
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
