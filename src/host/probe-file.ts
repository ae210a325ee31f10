import { randomBytes } from 'node:crypto';
import { access, constants, open, stat, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { codeOf, fileError } from './file-errors.js';
import { type Owner, setOwnership } from './ownership.js';

/** An empty file that shows whether a target can be written to, by us and by QEMU. */
export interface ProbeFile {
  readonly path: string;
  /** How much its file system's clock is ahead of ours, in milliseconds. */
  readonly clockAheadMs: number;
  readonly remove: () => Promise<void>;
}

/** Makes it in `folder`, or in the nearest folder above that is there. @throws QmpBackupError `unsafe` or `failed` */
export async function makeProbeFile(folder: string, owner: Owner | undefined): Promise<ProbeFile> {
  const path = join(await nearestFolder(folder), `.qmpbackup-probe-${randomBytes(4).toString('hex')}`);
  try {
    const handle = await open(path, 'wx', 0o600);
    try {
      await setOwnership(handle, 0o600, owner);
      // A file that has just been made carries the time of whoever keeps it.
      const clockAheadMs = (await handle.stat()).mtimeMs - Date.now();
      return { path, clockAheadMs, remove: () => remove(path) };
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw fileError('create a file in', dirname(path), error);
  }
}

/**
 * As far as it can be told without making anything.
 *
 * @throws QmpBackupError where no file can be made in `folder`, or in the nearest folder above that is there
 */
export async function refuseUnwritable(folder: string): Promise<void> {
  const nearest = await nearestFolder(folder);
  try {
    await access(nearest, constants.W_OK | constants.X_OK);
  } catch (error) {
    throw fileError('write into', nearest, error);
  }
}

async function nearestFolder(folder: string): Promise<string> {
  try {
    await stat(folder);
    return folder;
  } catch (error) {
    if (codeOf(error) !== 'ENOENT' || dirname(folder) === folder) throw fileError('look at', folder, error);
    return nearestFolder(dirname(folder));
  }
}

async function remove(path: string): Promise<void> {
  try {
    await unlink(path);
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw fileError('remove', path, error);
  }
}
