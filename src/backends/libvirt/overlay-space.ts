import { dirname } from 'node:path';
import type { SourceDisk } from '../../core/disk.js';
import { isTrackingOverlay } from '../../core/overlay-names.js';
import type { OverlaySpace } from '../../core/overlay-space.js';
import { allOf } from '../../flow/all-of.js';
import { ANSWER_MS, freeSpace } from '../../host/free-space.js';
import { isInMemory } from '../../host/mounts.js';
import { takenBy } from './overlay-facts.js';
import { belowOf } from './stray-overlay.js';

/**
 * What the overlays that track these disks hold, by their folders.
 *
 * @throws QmpBackupError where a folder cannot be looked at
 */
export async function overlaySpaces(disks: readonly SourceDisk[]): Promise<readonly OverlaySpace[]> {
  const paths = trackingPaths(disks);
  const folders = [...new Set(paths.map((path) => dirname(path)))];
  return allOf(
    folders.map(async (folder): Promise<OverlaySpace> => {
      const { free } = await freeSpace(folder, { timeoutMs: ANSWER_MS });
      const sizes = await allOf(paths.filter((path) => dirname(path) === folder).map(takenBy));
      const inMemory = isInMemory(folder);
      return { folder, free, inMemory, held: sizes.reduce<number>((sum, each) => sum + (each ?? 0), 0) };
    }),
  );
}

/**
 * The folders of those overlays that somebody has named: where none is named, an overlay lies beside its image.
 *
 * @throws QmpBackupError where a header cannot be read
 */
export async function namedFolders(disks: readonly SourceDisk[]): Promise<readonly string[]> {
  const folders = trackingPaths(disks).map(async (path): Promise<readonly string[]> => {
    const { image } = await belowOf(path);
    return image === null || dirname(image) !== dirname(path) ? [dirname(path)] : [];
  });
  return [...new Set((await allOf(folders)).flat())];
}

function trackingPaths(disks: readonly SourceDisk[]): readonly string[] {
  const overlays = disks.flatMap(({ overlays: each = [] }) => each);
  return overlays.filter(({ name }) => isTrackingOverlay(name)).map(({ path }) => path);
}
