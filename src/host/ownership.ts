import { type FileHandle, stat } from 'node:fs/promises';
import { codeOf, fileError } from './file-errors.js';

/** To whom files and folders of a target belong. */
export interface Owner {
  readonly uid: number;
  readonly gid: number;
}

/**
 * Sets mode and owner through an open descriptor, so that no link can divert it. File systems without owners or modes
 * (vfat, CIFS, NFS with squashed root) refuse with EPERM and decide by themselves; whether QEMU can then write to the
 * file is tried before any backup starts.
 */
export async function setOwnership(handle: FileHandle, mode: number, owner: Owner | undefined): Promise<void> {
  await tolerant(handle.chmod(mode));
  if (owner) await tolerant(handle.chown(owner.uid, owner.gid));
}

async function tolerant(change: Promise<void>): Promise<void> {
  try {
    await change;
  } catch (error) {
    const code = codeOf(error);
    if (code !== 'EPERM' && code !== 'ENOTSUP' && code !== 'EINVAL' && code !== 'ENOSYS') throw error;
  }
}

/** Root writes into somebody's folder on their behalf; everybody else owns what they write. */
export async function ownerFor(folder: string): Promise<Owner | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  try {
    const { uid, gid } = await stat(folder);
    return { uid, gid };
  } catch (error) {
    throw fileError('write into', folder, error);
  }
}
