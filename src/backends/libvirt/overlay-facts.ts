import { stat } from 'node:fs/promises';
import type { DirtyBitmap, SourceDisk } from '../../core/disk.js';
import { isFailure } from '../../core/failure.js';
import type { OverlayLayer } from '../../core/overlay-layers.js';
import { type OverlayRecord, whyNotStill } from '../../core/overlay-record.js';
import { allOf } from '../../flow/all-of.js';
import { collectFailure } from '../../flow/collect-failure.js';
import { codeOf } from '../../host/file-errors.js';
import { imageState } from '../../host/image-state.js';

/**
 * The disk, with what its tracking overlays hold, at most what an increment of it holds; and, where something else has written to the
 * images below one of them, why that is not all that has changed.
 */
export async function withOverlayFacts(disk: SourceDisk, records: readonly OverlayRecord[]): Promise<SourceDisk> {
  const { overlays = [] } = disk;
  if (overlays.length === 0) return disk;
  const taken = await allOf(overlays.map(({ path }) => takenBy(path)));
  const bitmaps = disk.bitmaps.map(async (bitmap): Promise<DirtyBitmap> => {
    const last = overlays.findIndex(({ name }) => name === bitmap.name);
    const overlay = overlays[last];
    if (!overlay) return bitmap;
    const unreadable = await whyNotAll(disk, overlay, records);
    const known = unreadable === null ? bitmap : { ...bitmap, unreadable };
    const since = taken.slice(0, last + 1);
    if (since.includes(null)) return known;
    const count = since.reduce<number>((sum, each) => sum + (each ?? 0), 0);
    return { ...known, count: Math.min(count, disk.virtualSize), uncounted: true as const };
  });
  return { ...disk, bitmaps: await allOf(bitmaps) };
}

async function whyNotAll(
  { backing = [] }: SourceDisk,
  { path, depth }: OverlayLayer,
  records: readonly OverlayRecord[],
): Promise<string | null> {
  const record = records.find(({ overlay }) => overlay === path);
  const now = await collectFailure(allOf(backing.slice(depth).map(imageState)));
  return isFailure(now) ? now.failed : whyNotStill(record, now);
}

/** Bytes; null where this user cannot tell. */
export async function takenBy(path: string): Promise<number | null> {
  try {
    return (await stat(path)).blocks * 512;
  } catch (error) {
    if (codeOf(error) === undefined) throw error;
    return null;
  }
}
