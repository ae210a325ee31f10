import { QmpBackupError } from '../errors.js';
import { isCausedBy, NO_ROOM } from '../host/file-errors.js';
import { readCatalog, removeCatalogCopies } from './catalog-file.js';
import { CATALOG_COPIES } from './layout.js';
import { type Lock, type LockOptions, lockTarget } from './lock.js';

/**
 * What has to be written so that a full file system gets space again: where it finds no room, the copies of the catalog make way for it,
 * the older one first. They are kept again with the next catalog. Needs no lock: a catalog that is whole needs no copy.
 *
 * @throws as `write`
 */
export async function makingRoom<T>(target: string, write: () => Promise<T>): Promise<T> {
  for (const copy of CATALOG_COPIES.toReversed()) {
    try {
      return await write();
    } catch (error) {
      if (!isCausedBy(error, NO_ROOM) || !(await hasWholeCatalog(target))) throw error;
      await removeCatalogCopies(target, [copy]);
    }
  }
  return write();
}

async function hasWholeCatalog(target: string): Promise<boolean> {
  try {
    return (await readCatalog(target)) !== undefined;
  } catch (error) {
    if (error instanceof QmpBackupError) return false;
    throw error;
  }
}

/** As `lockTarget`, for a command that removes what takes space, also where there is none. */
export function lockToRemove(target: string, options: LockOptions): Promise<Lock> {
  return makingRoom(target, () => lockTarget(target, options));
}
