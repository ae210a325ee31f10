import { rm, rmdir } from 'node:fs/promises';
import type { Catalog } from '../core/catalog.js';
import { knownDisks } from '../core/chain.js';
import { filesOf } from '../core/journal-parts.js';
import { syncFolder } from '../host/durable.js';
import { codeOf, fileError } from '../host/file-errors.js';
import { isThere } from '../host/is-there.js';
import { keepCatalogCopy, removeCatalogCopies, replaceCatalog, writeCatalog } from './catalog-file.js';
import { CATALOG_COPIES, diskFolder, pathIn, verifiedPath } from './layout.js';
import { makingRoom } from './making-room.js';
import { removePieceList } from './piece-list.js';
import { settleLinks } from './settle-links.js';
import { readMemory, writeMemory } from './verified-file.js';

/**
 * Makes a catalog that has retired files the one that counts: from the rename on its dropped points are gone. No copy names
 * their files either when the first of them is removed. For who holds the target's lock, and has asked `refuseOpenFiles`.
 *
 * @throws QmpBackupError as `replaceCatalog`; after an error, what counts is what `readCatalog` says
 */
export async function commitRetirement(target: string, catalog: Catalog): Promise<void> {
  await makingRoom(target, () => replaceCatalog(target, catalog));
  const kept = [await keepCatalogCopy(target), await keepCatalogCopy(target)];
  if (kept.includes(false)) await removeCatalogCopies(target, CATALOG_COPIES);
}

export interface Tidied {
  /** As it is written now. */
  readonly catalog: Catalog;
  /** `<folder>/<file>` of those that were still there. */
  readonly removed: readonly string[];
}

/**
 * Removes what the catalog has retired, also after a run that was killed over it, and forgets it; headers that name such a file
 * get the link that the catalog tells first. For who holds the target's lock.
 *
 * @throws QmpBackupError where a file cannot be removed; the next run goes on with it
 */
export async function removeRetiredFiles(target: string, catalog: Catalog): Promise<Tidied> {
  const { retiredFiles, ...rest } = catalog;
  if (!retiredFiles) return { catalog, removed: [] };
  // Before what their headers name is gone: as long as it is there, any program can open them.
  const kept = await settleLinks(target, rest);
  const recorded = filesOf(catalog);
  const removed: string[] = [];
  for (const { folder, file } of retiredFiles) {
    // A catalog that somebody has altered shall not take a file from a point.
    if (recorded.has(`${folder}/${file}`)) continue;
    const path = pathIn(diskFolder(target, folder), file);
    if (await removeFile(path)) removed.push(`${folder}/${file}`);
    await removePieceList(path);
  }
  for (const folder of new Set(retiredFiles.map((each) => each.folder))) await leaveFolder(target, folder, kept);
  await makingRoom(target, () => forget(target, kept));
  await makingRoom(target, () => writeCatalog(target, kept));
  return { catalog: kept, removed };
}

async function removeFile(path: string): Promise<boolean> {
  try {
    await rm(path);
    return true;
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return false;
    throw fileError('remove', path, error);
  }
}

/** Durably, or the space would not be free yet; and without the folder of a disk that has no file any more. */
async function leaveFolder(target: string, name: string, catalog: Catalog): Promise<void> {
  const folder = diskFolder(target, name);
  if (!(await isThere(folder))) return;
  await syncFolder(folder);
  if (knownDisks(catalog).has(name)) return;
  try {
    await rmdir(folder);
  } catch (error) {
    // Something of somebody else is in it.
    if (codeOf(error) !== 'ENOTEMPTY' && codeOf(error) !== 'EEXIST') throw fileError('remove', folder, error);
  }
}

/** What `verify` has found of files that are gone. */
async function forget(target: string, catalog: Catalog): Promise<void> {
  if (!(await isThere(verifiedPath(target)))) return;
  const { known } = await readMemory(target, catalog);
  await writeMemory(target, catalog, known.values());
}
