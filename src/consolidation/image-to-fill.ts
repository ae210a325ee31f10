import { joinSpans, type Range, rangesOfIncrement, type Span } from '../core/extents.js';
import { IMAGE_CLUSTER } from '../core/image-cluster.js';
import type { PointDisk } from '../core/point.js';
import { QmpBackupError } from '../errors.js';
import type { MapExtent } from '../qemu-tools/image-info.js';

/** A new image that is there, empty, and what it is filled with. */
export interface ImageToFill {
  /** The folder of the disk, absolute. */
  readonly dir: string;
  /** Its name there, while it is made. */
  readonly partial: string;
  /** FULL or oldest first; each builds on the one before. */
  readonly files: readonly PointDisk[];
  readonly compress: boolean;
}

export interface FillOptions {
  readonly signal: AbortSignal;
  /** 0 to 100. */
  readonly onProgress: (percent: number) => void;
  /** Files that are opened at once: more of them take long. */
  readonly atOnce?: number;
}

/** Reads the image once more, and throws where it is not what it was made of. May go on beside whatever else reads it. */
export type Proof = () => Promise<void>;

export const MOST_AT_ONCE = 100;

export function slicesOf(files: ImageToFill['files'], atOnce = MOST_AT_ONCE): readonly (readonly string[])[] {
  return Array.from({ length: Math.ceil(files.length / atOnce) }, (_, index) =>
    files.slice(index * atOnce, (index + 1) * atOnce).map(({ file }) => file),
  );
}

/** Where an image has clusters, by its map, in order. */
export function heldIn(extents: readonly MapExtent[]): readonly Span[] {
  return joinSpans(extents.filter(({ present }) => present).map(({ start, length }) => ({ offset: start, length })));
}

/**
 * What an image has, by its map, in clusters, with what it says of zeros. Holes of its file count as zeros, and begin and end anywhere: a
 * cluster that is zero in part is data.
 *
 * @param size of the disk, in bytes
 */
export function rangesIn(extents: readonly MapExtent[], size: number): readonly Range[] {
  const zero = extents
    .filter((extent) => extent.zero || !extent.data)
    .map(({ start, length }) => ({ offset: start, length }));
  return rangesOfIncrement({ dirty: heldIn(extents), zero }, { size, clusterSize: IMAGE_CLUSTER });
}

export function wrongResult(partial: string, why: string): QmpBackupError {
  return new QmpBackupError('failed', `the merge into ${partial} went wrong: ${why}`, {
    hint: 'Nothing was changed. Check the storage of the target, then run it again.',
  });
}
