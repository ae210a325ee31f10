import { type FileHandle, open } from 'node:fs/promises';
import { joinSpans, type Range, rangesWithout, type Span } from '../core/extents.js';
import { misplacedIn, piecesWritten, SpanIndex, type WrittenImage } from '../core/moved-full.js';
import type { NbdSource } from '../core/nbd-address.js';
import { type ByteRange, differingRanges, pieceCount, rangeOfPiece } from '../core/pieces.js';
import { fileFinding, refuseFindings } from '../core/point-findings.js';
import { l2OffsetOf, type TablesPlace, tablesOf } from '../core/qcow2-tables.js';
import { QCOW2_HEADER_BYTES } from '../core/qcow2-header.js';
import { allOf, endingTogether } from '../flow/all-of.js';
import { fileError } from '../host/file-errors.js';
import { findDifference } from '../nbd/compare.js';
import { damagedAt } from '../repository/check-file.js';
import { digestOfPieces, type DigestByPieces, digestsOfRanges } from '../repository/digest.js';
import { type FillOptions, wrongResult } from './image-to-fill.js';
import type { MovableFull } from './movable-full.js';
import { withClient } from './with-client.js';

/** A copy of a FULL's file with increments written into it. */
interface MovedImage {
  /** Absolute, of the FULL and of the copy. */
  readonly old: string;
  readonly path: string;
  /** The copy's name. */
  readonly partial: string;
  /** Its blocks are the old file's but where it was written. */
  readonly shared: boolean;
  /** In its file. */
  readonly written: readonly Span[];
  readonly slices: readonly NbdSource[];
  /** Itself, to be read. */
  readonly image: NbdSource;
}

type ProofOptions = Pick<FillOptions, 'signal' | 'onProgress'>;

/**
 * That the image is the state of the last increment, whose clusters are others' only where they are to be. What is neither copied nor
 * changed is not read: it keeps its digests.
 *
 * - Pieces of the file that nobody wrote have their old digests.
 * - Of the others, which had theirs in the old file, what was not written is the same.
 * - Clusters of the disk that no increment has are where they were, where nothing was written.
 * - Those of the increments hold what these do.
 *
 * @throws QmpBackupError `damaged` where the old file is, `failed` where the copy is wrong
 */
export async function proveMoved(
  moved: MovableFull,
  image: MovedImage,
  { signal, onProgress }: ProofOptions,
): Promise<DigestByPieces> {
  const { pieces, full } = moved;
  const files = await openBoth(image);
  try {
    const size = (await files.after.stat()).size;
    const changed = piecesWritten(image.written, { bytes: pieces.bytes, before: full.size, after: size });
    const { signal: together, step } = endingTogether(signal);
    const proveBytes = async (): Promise<void> => {
      const rest = { changed, size: Math.min(size, full.size), bytes: pieces.bytes, signal: together };
      await proveRest(files, image, rest);
      const zeroed = await proveTables(files, moved, image, together);
      await proveMerged(moved, image, zeroed, { signal: together, onProgress });
    };
    // Threads make the digests meanwhile.
    const [digests] = await allOf([
      step(provePieces(moved, image, { changed, size, signal: together })),
      step(proveBytes()),
    ]);
    return digestOfPieces(digests, pieces);
  } finally {
    await allOf([files.before.close(), files.after.close()]);
  }
}

interface BothFiles {
  readonly before: FileHandle;
  readonly after: FileHandle;
}

async function openBoth({ old, path }: MovedImage): Promise<BothFiles> {
  const opened = (file: string): Promise<FileHandle> =>
    open(file, 'r').catch((error: unknown) => {
      throw fileError('read', file, error);
    });
  const before = await opened(old);
  try {
    return { before, after: await opened(path) };
  } catch (error) {
    await before.close();
    throw error;
  }
}

interface Pieces {
  /** Those that were written into. */
  readonly changed: ReadonlySet<number>;
  /** Of the file, in bytes. */
  readonly size: number;
  readonly signal: AbortSignal;
}

/** The digests of the new file. */
async function provePieces(
  { full, pieces }: MovableFull,
  { old, path, partial, shared }: MovedImage,
  { changed, size, signal }: Pieces,
): Promise<readonly string[]> {
  const { bytes, method } = pieces;
  const all = Array.from({ length: pieceCount(size, bytes) }, (_, index) => index);
  const rangesOf = (indexes: readonly number[], length: number): readonly ByteRange[] =>
    indexes.map((index) => rangeOfPiece(index, { bytes, size: length }));
  const refuseOld = async (indexes: readonly number[]): Promise<void> => {
    const found = await digestsOfRanges(old, rangesOf(indexes, full.size), method, { signal });
    const now = new Map(indexes.map((index, at) => [index, found[at] ?? '']));
    const digests = pieces.digests.map((digest, index) => now.get(index) ?? digest);
    const ranges = differingRanges(digests, pieces.digests, { bytes, size: full.size });
    if (ranges.length > 0) refuseFindings([fileFinding(full.disk, full.file, damagedAt({ ranges }))]);
  };
  await refuseOld(all.filter((index) => changed.has(index) && index < pieces.digests.length));
  const toRead = shared ? all.filter((index) => changed.has(index)) : all;
  const found = await digestsOfRanges(path, rangesOf(toRead, size), method, { signal });
  const read = new Map(toRead.map((index, at) => [index, found[at] ?? '']));
  const wrong = toRead.filter((index) => !changed.has(index) && read.get(index) !== pieces.digests[index]);
  if (wrong.length > 0) {
    await refuseOld(wrong);
    throw wrongResult(partial, `it is no copy of ${full.file}`);
  }
  return all.map((index) => read.get(index) ?? pieces.digests[index] ?? '');
}

/** Bytes that are compared at a time. */
const STEP = 1024 * 1024;

/** In the pieces that were written into, what was not is as it was. */
async function proveRest(
  { before, after }: BothFiles,
  { written, partial, old, path }: MovedImage,
  { changed, size, bytes, signal }: Pieces & { readonly bytes: number },
): Promise<void> {
  const pieces = [...changed].map((index): Range => {
    const { start, end } = rangeOfPiece(index, { bytes, size });
    return { kind: 'data', offset: start, length: Math.max(0, end - start) };
  });
  const [one, other] = [Buffer.allocUnsafeSlow(STEP), Buffer.allocUnsafeSlow(STEP)];
  for (const { offset, length } of rangesWithout(joinedRanges(pieces), written)) {
    for (let at = offset; at < offset + length; at += STEP) {
      signal.throwIfAborted();
      const count = Math.min(STEP, offset + length - at);
      const [a, b] = await allOf([readAt(before, old, one, at, count), readAt(after, path, other, at, count)]);
      if (!a.equals(b))
        throw wrongResult(partial, `it has other bytes than ${old} from byte ${at}, where nothing was written`);
    }
  }
}

function joinedRanges(spans: readonly Span[]): readonly Range[] {
  return joinSpans(spans).map((span): Range => ({ ...span, kind: 'data' }));
}

async function readAt(file: FileHandle, path: string, into: Buffer, at: number, length: number): Promise<Buffer> {
  try {
    const { bytesRead } = await file.read(into, 0, length, at);
    // What is beyond the end of a file reads as zeros.
    return into.subarray(0, length).fill(0, bytesRead);
  } catch (error) {
    throw fileError('read', path, error);
  }
}

/** Resolves to the clusters that were to be zero and have data: they have to be read. */
async function proveTables(
  files: BothFiles,
  { slices, full }: MovableFull,
  { written, partial, old, path }: MovedImage,
  signal: AbortSignal,
): Promise<readonly Span[]> {
  const ranges = slices.flatMap((slice) => slice.ranges);
  const [before, after] = [await readTables(files.before, old), await readTables(files.after, path)];
  const { clusterBits } = after.place;
  const image: WrittenImage = {
    clusterBits,
    merged: new SpanIndex(joinSpans(ranges)),
    zeros: new SpanIndex(joinSpans(ranges.filter(({ kind }) => kind === 'zero'))),
    written: new SpanIndex(written),
  };
  const cluster = 2 ** clusterBits;
  const [one, other] = [Buffer.allocUnsafeSlow(cluster), Buffer.allocUnsafeSlow(cluster)];
  const withData: Span[] = [];
  const count = Math.max(before.place.l1.entries, after.place.l1.entries);
  for (let table = 0; table < count; table += 1) {
    signal.throwIfAborted();
    if (l2Of(before, table) === 0 && l2Of(after, table) === 0) continue;
    const [was, is] = await allOf([
      readL2(files.before, old, before, table, one),
      readL2(files.after, path, after, table, other),
    ]);
    const wrong = misplacedIn(was, is, (table * cluster) / 8, image, (span) => withData.push(span));
    if (wrong === undefined) continue;
    throw wrongResult(
      partial,
      `what no increment has is not where it is in ${full.file}, from byte ${wrong} of the disk`,
    );
  }
  return joinSpans(withData);
}

interface Tables {
  readonly place: TablesPlace;
  readonly l1: Buffer;
}

async function readTables(file: FileHandle, path: string): Promise<Tables> {
  const start = await readAt(file, path, Buffer.alloc(QCOW2_HEADER_BYTES), 0, QCOW2_HEADER_BYTES);
  const place = tablesOf(start);
  if (!place) throw wrongResult(path, 'its tables are of another kind');
  const { offset, entries } = place.l1;
  return { place, l1: await readAt(file, path, Buffer.alloc(entries * 8), offset, entries * 8) };
}

/** Where it is in the file; 0 where there is none. */
function l2Of({ place, l1 }: Tables, table: number): number {
  return table < place.l1.entries ? l2OffsetOf(l1.readBigUInt64BE(table * 8)) : 0;
}

/** All zeros where there is none. */
async function readL2(file: FileHandle, path: string, tables: Tables, table: number, into: Buffer): Promise<Buffer> {
  const offset = l2Of(tables, table);
  return offset === 0 ? into.fill(0) : readAt(file, path, into, offset, into.length);
}

async function proveMerged(
  { slices, full }: MovableFull,
  { slices: sources, image, partial }: MovedImage,
  zeroed: readonly Span[],
  { signal, onProgress }: ProofOptions,
): Promise<void> {
  await withClient(image, {}, signal, async (own) => {
    for (const [index, { ranges, files }] of slices.entries()) {
      const source = sources[index];
      const data = ranges.filter(({ kind }) => kind === 'data');
      if (!source || data.length === 0) continue;
      const differs = await withClient(source, {}, signal, (from) =>
        findDifference(from, own, data, {
          signal,
          onProgress: ({ done, total }) => onProgress(((index + done / total) / slices.length) * 100),
        }),
      );
      if (differs !== undefined)
        throw wrongResult(partial, `it does not hold what ${files.at(-1)} does, at byte ${differs}`);
    }
    const zeros = zeroed.map((span): Range => ({
      ...span,
      length: Math.min(span.length, full.virtualSize - span.offset),
      kind: 'zero',
    }));
    const differs = await findDifference(own, own, zeros, { signal });
    if (differs !== undefined) throw wrongResult(partial, `it has data where zeros were merged, at byte ${differs}`);
  });
}
