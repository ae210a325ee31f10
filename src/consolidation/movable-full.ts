import { join } from 'node:path';
import { joinSpans, type Range, rangesWithout, type Span } from '../core/extents.js';
import { IMAGE_CLUSTER } from '../core/image-cluster.js';
import {
  type DigestMethod,
  listOfPieces,
  methodOf,
  methodOfPieces,
  pieceCount,
  type PieceDigest,
  strongest,
} from '../core/pieces.js';
import type { PointDisk } from '../core/point.js';
import { tablesOf } from '../core/qcow2-tables.js';
import { parseQcow2Header, type Qcow2Header } from '../core/qcow2-header.js';
import { beginning } from '../qemu-tools/examine.js';
import { viewOf } from '../qemu-tools/image-view.js';
import { map } from '../qemu-tools/steps.js';
import { digestOfList, digestsOfRanges, readPieces } from '../repository/digest.js';
import { heldIn, rangesIn, slicesOf } from './image-to-fill.js';

/** A FULL into a copy of whose file the increments above it can be written, so that the work is that of the increments. */
export interface MovableFull {
  readonly full: PointDisk;
  readonly pieces: {
    /** Length of each but the last, in bytes. */
    readonly bytes: number;
    readonly method: DigestMethod;
    readonly digests: readonly string[];
  };
  /** What is to be written: of each cluster what the newest has that has it. */
  readonly slices: readonly MergeSlice[];
}

/** Increments that are opened at once. */
export interface MergeSlice {
  /** Oldest first. */
  readonly files: readonly string[];
  readonly ranges: readonly Range[];
}

/**
 * Undefined where the new FULL has to be made from the beginning: one that has no list of its pieces or a weaker digest than an
 * increment, is compressed, or is another disk; of images of other tools those whose clusters are others than ours.
 */
export async function movableFull(
  dir: string,
  files: readonly PointDisk[],
  signal: AbortSignal,
): Promise<MovableFull | undefined> {
  const [full, ...increments] = files;
  if (!full?.pieces || full.compressed || full.virtualSize !== files.at(-1)?.virtualSize) return undefined;
  const method = methodOfPieces(full.pieces);
  if (strongest(files.map(methodOf)) !== method) return undefined;
  const path = join(dir, full.file);
  const start = await beginning(path, full.file);
  if (!isOrdinary(parseQcow2Header(start)) || !tablesOf(start)) return undefined;
  const { bytes } = full.pieces;
  const digests = await piecesOf(path, full, full.pieces, signal);
  if (!digests) return undefined;
  const slices: MergeSlice[] = [];
  let newer: readonly Span[] = [];
  for (const slice of slicesOf(increments).toReversed()) {
    const extents = await map(viewOf(slice), { cwd: dir, signal });
    if (!heldIn(extents).every((span) => isWhole(span, full.virtualSize))) return undefined;
    const ranges = rangesIn(extents, full.virtualSize);
    slices.unshift({ files: slice, ranges: rangesWithout(ranges, newer) });
    newer = joinSpans([...newer, ...ranges]);
  }
  return { full, pieces: { bytes, method, digests }, slices };
}

/** Of a single piece there is no list: it is read. */
async function piecesOf(
  path: string,
  { size }: PointDisk,
  pieces: PieceDigest,
  signal: AbortSignal,
): Promise<readonly string[] | undefined> {
  const count = pieceCount(size, pieces.bytes);
  if (count > 1) return readPieces(path, pieces, count);
  const digests = await digestsOfRanges(path, [{ start: 0, end: size }], methodOfPieces(pieces), { signal });
  return digestOfList(listOfPieces(digests)) === pieces.sha256 ? digests : undefined;
}

function isOrdinary({ version, clusterSize, snapshots, autoclearFeatures, dirty, corrupt }: Qcow2Header): boolean {
  const usual = version === 3 && clusterSize === IMAGE_CLUSTER && snapshots === 0 && autoclearFeatures === 0n;
  return usual && !dirty && !corrupt;
}

function isWhole({ offset, length }: Span, size: number): boolean {
  const ends = (at: number): boolean => at % IMAGE_CLUSTER === 0 || at === size;
  return ends(offset) && ends(offset + length);
}
