import type { Dirent } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { isBackupFile, isStrayFolder } from '../core/strays.js';
import { QmpBackupError } from '../errors.js';
import { codeOf, fileError } from '../host/file-errors.js';
import { isThere } from '../host/is-there.js';
import { catalogCopyPath, catalogPath, journalPath, LOST_AND_FOUND, verifiedPath } from './layout.js';

export interface TargetsIn {
  readonly targets: readonly string[];
  /** Folders in which there may be more. */
  readonly unreadable: readonly { readonly folder: string; readonly error: QmpBackupError }[];
}

/**
 * The targets in a folder, by what is in them and not by their catalogs, which may be lost: the folder itself, else those one
 * or two levels below, as `--monthly` makes them.
 */
export async function targetsIn(root: string): Promise<TargetsIn> {
  const unreadable: { folder: string; error: QmpBackupError }[] = [];
  const look = async <T>(folder: string, step: (folder: string) => Promise<T>, none: T): Promise<T> => {
    try {
      return await step(folder);
    } catch (error) {
      if (!(error instanceof QmpBackupError)) throw error;
      unreadable.push({ folder, error });
      return none;
    }
  };
  // What cannot be read is a folder of ours for all we know, and there is nothing to be found below it.
  const search = async (folder: string, levels: number): Promise<readonly string[]> => {
    const before = unreadable.length;
    if (await look(folder, isTarget, false)) return [folder];
    if (levels === 0 || unreadable.length > before) return [];
    const found: string[] = [];
    for (const name of await diskFoldersIn(folder)) found.push(...(await search(join(folder, name), levels - 1)));
    return found;
  };
  return { targets: (await search(root, LEVELS)).toSorted(), unreadable };
}

const LEVELS = 2;

/** Whether anything of ours is in it, also where only the folders of disks are left. */
async function isTarget(folder: string): Promise<boolean> {
  const ours = [catalogPath(folder), catalogCopyPath(folder, 1), journalPath(folder), verifiedPath(folder)];
  for (const path of ours) {
    if (await isThere(path)) return true;
  }
  for (const name of await diskFoldersIn(folder)) {
    const entries = await entriesOf(join(folder, name)).catch((error: unknown) => {
      // Who looks for targets in that folder tells of it.
      if (error instanceof QmpBackupError) return [];
      throw error;
    });
    if (entries.some((entry) => isBackupFile(entry.name))) return true;
  }
  return false;
}

/** Folders of a target that may be those of disks, by name; links are none. */
export async function diskFoldersIn(target: string): Promise<readonly string[]> {
  const isDiskFolder = (entry: Dirent): boolean =>
    entry.isDirectory() && !entry.name.startsWith('.') && !isStrayFolder(entry.name) && entry.name !== LOST_AND_FOUND;
  return (await entriesOf(target)).filter(isDiskFolder).map(({ name }) => name);
}

/**
 * What is in a folder; nothing where it is not there or is none.
 *
 * @throws QmpBackupError where it cannot be read
 */
export async function entriesOf(folder: string): Promise<readonly Dirent[]> {
  try {
    return await readdir(folder, { withFileTypes: true });
  } catch (error) {
    if (codeOf(error) === 'ENOENT' || codeOf(error) === 'ENOTDIR') return [];
    throw fileError('read', folder, error);
  }
}
