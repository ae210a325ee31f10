import { stat } from 'node:fs/promises';
import type { SourceDisk } from '../../core/disk.js';
import { codeOf } from '../../host/file-errors.js';

/** The disk, with what its tracking overlays hold: at most what an increment of it holds. */
export async function withOverlaySizes(disk: SourceDisk): Promise<SourceDisk> {
  const { overlays = [] } = disk;
  if (overlays.length === 0) return disk;
  const taken = await Promise.all(overlays.map(({ path }) => takenBy(path)));
  const bitmaps = disk.bitmaps.map((bitmap) => {
    const last = overlays.findIndex(({ name }) => name === bitmap.name);
    const since = taken.slice(0, last + 1);
    if (last < 0 || since.includes(null)) return bitmap;
    const count = since.reduce<number>((sum, each) => sum + (each ?? 0), 0);
    return { ...bitmap, count: Math.min(count, disk.virtualSize), uncounted: true as const };
  });
  return { ...disk, bitmaps };
}

/** Bytes; null where this user cannot tell. */
async function takenBy(path: string): Promise<number | null> {
  try {
    return (await stat(path)).blocks * 512;
  } catch (error) {
    if (codeOf(error) === undefined) throw error;
    return null;
  }
}
