import { constants } from 'node:fs';
import { mkdir, open, rm, truncate } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { isScratchFolder } from '../core/names.js';
import { QmpBackupError } from '../errors.js';
import { codeOf, fileError } from '../host/file-errors.js';
import { type Owner, setOwnership } from '../host/ownership.js';

/**
 * Folders of scratch images, in which fleecing keeps what the guest overwrites while its backup runs. They lie outside
 * the target and belong to one attempt; nothing in them is worth keeping.
 */

/** Makes the folder of one attempt, 0700. Throws `unsafe` where this user may not, or where it exists. */
export async function makeScratch(folder: string, owner: Owner | undefined): Promise<void> {
  refuseOther(folder);
  try {
    await mkdir(folder, 0o700);
    await own(folder, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW, 0o700, owner);
  } catch (error) {
    throw fileError('create the folder', folder, error);
  }
}

/**
 * Sets owner and mode of a scratch image, and its length: QEMU is told to use no more than that, so that a guest that
 * writes a lot cannot fill the file system.
 */
export async function limitScratch(path: string, bytes: number, owner: Owner | undefined): Promise<void> {
  try {
    await truncate(path, bytes);
    await own(path, constants.O_RDONLY | constants.O_NOFOLLOW, 0o600, owner);
  } catch (error) {
    throw fileError('prepare', path, error);
  }
}

export async function removeScratch(folder: string): Promise<void> {
  refuseOther(folder);
  try {
    await rm(folder, { recursive: true });
  } catch (error) {
    // A path that leads through a file leads to no folder either.
    if (codeOf(error) !== 'ENOENT' && codeOf(error) !== 'ENOTDIR') throw fileError('remove', folder, error);
  }
}

export function scratchImage(folder: string, index: number): string {
  return join(folder, `${index}.qcow2`);
}

/** Whatever a damaged journal says, only folders of this name are ever removed. */
function refuseOther(folder: string): void {
  if (folder.startsWith('/') && isScratchFolder(basename(folder))) return;
  throw new QmpBackupError('unsafe', `${JSON.stringify(folder)} is not the name of a scratch folder`);
}

async function own(path: string, flags: number, mode: number, owner: Owner | undefined): Promise<void> {
  const handle = await open(path, flags);
  try {
    await setOwnership(handle, mode, owner);
  } finally {
    await handle.close();
  }
}
