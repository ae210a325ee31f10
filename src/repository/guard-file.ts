import { constants } from 'node:fs';
import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileError } from '../host/file-errors.js';
import { type Owner, setOwnership } from '../host/ownership.js';

/** An image that QEMU opens at the beginning of a run; its name goes as soon as that is done. */
export function guardFile(target: string): string {
  return join(target, '.qmpbackup-here.vhd');
}

export async function makeGuardFile(path: string, content: Uint8Array, owner: Owner | undefined): Promise<void> {
  try {
    // Whatever is there is of a run that died, or no file of ours: no link is followed.
    await rm(path, { force: true });
    const handle = await open(path, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o600);
    try {
      await handle.writeFile(content);
      await setOwnership(handle, 0o600, owner);
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw fileError('create', path, error);
  }
}

export async function removeGuardFile(path: string): Promise<void> {
  try {
    await rm(path, { force: true });
  } catch (error) {
    throw fileError('remove', path, error);
  }
}
