import { counted } from './counted.js';
import type { Catalog } from './catalog.js';

/**
 * Whether the catalog is one that its own copy has gone on from: whoever put it there has put back an old one. The newest
 * point of a catalog stays in it, whatever is merged; one that was pruned has its files among the retired until both copies are without it.
 */
export function isOlderThan(catalog: Catalog, copy: Catalog): boolean {
  if (catalog.targetId !== copy.targetId) return false;
  const [last, newest] = [catalog.points.at(-1), copy.points.at(-1)];
  if (newest === undefined || catalog.points.some(({ id }) => id === newest.id)) return false;
  if (newest.disks.some(({ disk, file }) => isRetired(catalog, disk, file))) return false;
  return last === undefined || copy.points.some(({ id }) => id === last.id);
}

function isRetired({ retiredFiles = [] }: Catalog, disk: string, file: string): boolean {
  return retiredFiles.some((each) => each.folder === disk && each.file === file);
}

/** `of 3 points, the newest of 2026-11-21T12:00:00.000Z` */
export function describeCatalog({ points }: Catalog): string {
  const newest = points.at(-1);
  return newest ? `of ${counted(points.length, 'point')}, the newest of ${newest.createdAt}` : 'without a point';
}
