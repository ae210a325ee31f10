import { rm, rmdir } from 'node:fs/promises';
import { basename } from 'node:path';
import { codeOf, fileError } from '../../host/file-errors.js';
import { syncFolder } from '../../host/durable.js';
import { writeCatalog } from '../../repository/catalog-file.js';
import { readJournal } from '../../repository/journal-file.js';
import { CATALOG_COPIES, catalogCopyPath, catalogPath, isMonth, verifiedPath } from '../../repository/layout.js';
import type { LockedTarget } from './request.js';

/**
 * Older months without a point go. What they knew of bitmaps that may still be in the VM goes to the newest month, which the
 * next backup reads. Killed meanwhile, the month is there and empty still, or its folder without a catalog.
 */
export async function dropEmptyMonths(targets: readonly LockedTarget[]): Promise<void> {
  const newest = targets.at(-1);
  if (!newest) return;
  for (const each of targets) {
    if (each === newest || !isMonth(basename(each.target)) || each.catalog.points.length > 0) continue;
    // It may know of more in the VM.
    if (await readJournal(each.target)) continue;
    const retired = [...new Set([...each.catalog.retired, ...newest.catalog.retired])];
    if (retired.length > newest.catalog.retired.length) {
      newest.catalog = { ...newest.catalog, retired };
      await writeCatalog(newest.target, newest.catalog);
    }
    await removeMonth(each);
  }
}

async function removeMonth({ target, release }: LockedTarget): Promise<void> {
  // The catalog last: a copy without one says that it was lost.
  const files = [...CATALOG_COPIES.map((copy) => catalogCopyPath(target, copy)), verifiedPath(target)];
  for (const path of [...files, catalogPath(target)]) {
    try {
      await rm(path, { force: true });
    } catch (error) {
      throw fileError('remove', path, error);
    }
  }
  await syncFolder(target);
  await release();
  try {
    await rmdir(target);
  } catch (error) {
    // Something of somebody else is in it.
    if (codeOf(error) !== 'ENOTEMPTY' && codeOf(error) !== 'EEXIST') throw fileError('remove', target, error);
  }
}
