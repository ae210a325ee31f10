import type { Catalog } from './catalog.js';
import { neededBitmaps } from './chain.js';
import type { SourceDisk } from './disk.js';

/** A checkpoint that libvirt no longer knows, and whose bitmaps may still be in the images. */
export interface LostCheckpoint {
  readonly name: string;
  /** When its point was made; ISO 8601. */
  readonly createdAt: string;
  /** Targets of the disks whose files were sealed with it, as far as the domain still has them. */
  readonly disks: readonly string[];
}

/** Those that the newest files of `catalog` need and that no disk of the domain shows: libvirt forgets them with a domain. */
export function lostCheckpoints(
  catalog: Catalog | undefined,
  sources: readonly SourceDisk[],
): readonly LostCheckpoint[] {
  if (!catalog) return [];
  const shown = new Set(sources.flatMap(({ bitmaps }) => bitmaps.map(({ name }) => name)));
  return [...neededBitmaps(catalog)]
    .filter((name) => !shown.has(name))
    .flatMap((name): LostCheckpoint[] => {
      const point = catalog.points.find(({ disks }) => disks.some(({ bitmap }) => bitmap?.name === name));
      const targets =
        point?.disks.filter(({ bitmap }) => bitmap?.name === name).map(({ source }) => source.device) ?? [];
      const disks = sources.map(({ node }) => node).filter((target) => targets.includes(target));
      return point && disks.length > 0 ? [{ name, createdAt: point.createdAt, disks }] : [];
    });
}
