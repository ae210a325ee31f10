import type { Catalog } from './catalog.js';
import { neededBitmaps } from './chain.js';
import type { SourceDisk } from './disk.js';
import { isTrackingOverlay } from './overlay-names.js';
import type { RedefineCheckpoint } from './reconcile.js';

/** Checkpoints that the newest files of `catalog` need and that no disk of the domain shows: libvirt forgets them with a domain. */
export function lostCheckpoints(
  catalog: Catalog | undefined,
  sources: readonly SourceDisk[],
): readonly RedefineCheckpoint[] {
  if (!catalog) return [];
  const shown = new Set(sources.flatMap(({ bitmaps }) => bitmaps.map(({ name }) => name)));
  return [...neededBitmaps(catalog)]
    .filter((name) => !shown.has(name) && !isTrackingOverlay(name))
    .flatMap((name): RedefineCheckpoint[] => {
      const point = catalog.points.find(({ disks }) => disks.some(({ bitmap }) => bitmap?.name === name));
      const targets =
        point?.disks.filter(({ bitmap }) => bitmap?.name === name).map(({ source }) => source.device) ?? [];
      const disks = sources.map(({ address }) => address).filter((target) => targets.includes(target));
      if (!point || disks.length === 0) return [];
      return [{ kind: 'redefine-checkpoint', checkpoint: name, createdAt: point.createdAt, disks }];
    });
}
