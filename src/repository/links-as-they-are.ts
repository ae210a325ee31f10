import type { Catalog } from '../core/catalog.js';
import type { Point, PointDisk } from '../core/point.js';
import { QmpBackupError } from '../errors.js';
import { readHeader } from '../qemu-tools/examine.js';
import { filePath } from './layout.js';

/**
 * Of a file that is to get another link (`settleLinks`) the header tells whether it has it already: whoever reads the catalog then sees
 * the link and the digest that the file has now, whichever step was the last of a run that was killed.
 */
export function withLinksAsTheyAre(target: string, catalog: Catalog): Promise<Catalog> {
  return changeLinked(catalog, (entry) => asItIs(target, entry));
}

/** A catalog whose entries with a `link` are changed; most have none. */
export async function changeLinked<C extends Pick<Catalog, 'points'>>(
  catalog: C,
  change: (entry: PointDisk) => Promise<PointDisk>,
): Promise<C> {
  if (!catalog.points.some(({ disks }) => disks.some(({ link }) => link))) return catalog;
  const points: Point[] = [];
  for (const point of catalog.points) {
    const disks: PointDisk[] = [];
    for (const entry of point.disks) disks.push(entry.link ? await change(entry) : entry);
    points.push({ ...point, disks });
  }
  return { ...catalog, points };
}

async function asItIs(target: string, entry: PointDisk): Promise<PointDisk> {
  const { link, parent, disk, file } = entry;
  if (!link || parent === null || link.name === parent) return entry;
  if ((await linkIn(filePath(target, disk, file))) !== parent) return entry;
  return { ...entry, sha256: null, pieces: link.pieces, link: { ...link, name: parent } };
}

/** Undefined for what is no image: whoever opens it says so. */
async function linkIn(path: string): Promise<string | null | undefined> {
  try {
    return (await readHeader(path, path)).backingFile;
  } catch (error) {
    if (error instanceof QmpBackupError) return undefined;
    throw error;
  }
}
