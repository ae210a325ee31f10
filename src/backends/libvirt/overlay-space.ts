import { dirname } from 'node:path';
import type { SourceDisk } from '../../core/disk.js';
import { isTrackingOverlay } from '../../core/overlay-names.js';
import type { OverlaySpace } from '../../core/overlay-space.js';
import { allOf } from '../../flow/all-of.js';
import { ANSWER_MS, freeSpace } from '../../host/free-space.js';
import { isInMemory } from '../../host/mounts.js';
import { takenBy } from './overlay-facts.js';

/**
 * What the overlays that track these disks hold, by their folders.
 *
 * @throws QmpBackupError where a folder cannot be looked at
 */
export async function overlaySpaces(disks: readonly SourceDisk[]): Promise<readonly OverlaySpace[]> {
  const paths = disks
    .flatMap(({ overlays = [] }) => overlays)
    .filter(({ name }) => isTrackingOverlay(name))
    .map(({ path }) => path);
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
