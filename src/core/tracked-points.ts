import type { Catalog } from './catalog.js';
import { currentChain, findFile, knownDisks, latestFile, latestTracked } from './chain.js';
import { goneDisks } from './restore-plan.js';

/** The points whose files the next increment of a disk builds on, by point id and disk. */
export function trackedPoints(catalog: Catalog): readonly { readonly id: string; readonly disk: string }[] {
  const chain = currentChain(catalog);
  if (chain === undefined) return [];
  const gone = goneDisks(catalog.points);
  const disks = [...knownDisks(catalog).keys()].filter((disk) => !gone.has(disk));
  return disks.flatMap((disk) => {
    // Without a bitmap it is compared with the newest.
    const entry = latestTracked(catalog, disk, chain) ?? latestFile(catalog, disk, chain);
    const found = entry && findFile(catalog, disk, entry.file);
    return found ? [{ id: found.point.id, disk }] : [];
  });
}
