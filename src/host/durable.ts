import { randomUUID } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { codeOf, fileError } from './file-errors.js';
import { type Owner, setOwnership } from './ownership.js';

/** Writing that survives a power cut: what these functions but `replaceUnflushed` have returned from is on the disk, whole. */

interface NewFile {
  readonly mode: number;
  readonly owner?: Owner | undefined;
  /** No lock keeps others from replacing it at the same time; what a crash leaves is then replaced by none. */
  readonly isContended?: boolean;
}

/**
 * Replaces `path` by a file that holds `content`: temporary file, fsync, rename, fsync of the folder. Whoever reads
 * `path` finds the old content or the new one. A temporary file that a crash left is replaced.
 *
 * @throws QmpBackupError `unsafe` or `failed`. An error of the last fsync comes after the rename: read `path` again.
 */
export async function replaceFile(path: string, content: string | Uint8Array, file: NewFile): Promise<void> {
  await replaceBy(path, content, file, (handle) => handle.sync());
  await syncFolder(dirname(path));
}

/**
 * As `replaceFile`, for one of many that can be made again: whoever reads `path` finds the old content or the new one,
 * but after a power cut that may be cut short, or zeros.
 */
export function replaceUnflushed(path: string, content: string | Uint8Array, file: NewFile): Promise<void> {
  return replaceBy(path, content, file, () => Promise.resolve());
}

async function replaceBy(
  path: string,
  content: string | Uint8Array,
  { mode, owner, isContended = false }: NewFile,
  flush: (handle: FileHandle) => Promise<void>,
): Promise<void> {
  const temporary = temporaryOf(isContended ? `${path}.${randomUUID()}` : path);
  try {
    await rm(temporary, { force: true });
    // Exclusive: never through a link that somebody put there.
    const handle = await open(temporary, 'wx', mode);
    try {
      await setOwnership(handle, mode, owner);
      await handle.writeFile(content);
      await flush(handle);
    } finally {
      await handle.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined); // The first error is the one to tell.
    throw fileError('write', path, error);
  }
}

/** Removes what a run that died while it replaced `path` left beside it. Only for who holds the lock on that place. */
export async function removeTemporary(path: string): Promise<void> {
  try {
    await rm(temporaryOf(path), { force: true });
  } catch (error) {
    throw fileError('remove', temporaryOf(path), error);
  }
}

function temporaryOf(path: string): string {
  return `${path}.tmp`;
}

/** Flushes a file by a descriptor of our own, whoever wrote it: the kernel then writes out all its pages. */
export async function syncFile(path: string): Promise<void> {
  try {
    const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw fileError('flush', path, error);
  }
}

/** Makes renames, creations and removals in `path` durable. */
export async function syncFolder(path: string): Promise<void> {
  try {
    const handle = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (error) {
    // Some network and FUSE file systems know no fsync of a folder; their renames are as durable as they get.
    if (codeOf(error) === 'EINVAL' || codeOf(error) === 'ENOTSUP') return;
    throw fileError('flush the folder', path, error);
  }
}

export async function renameDurably(from: string, to: string): Promise<void> {
  try {
    await rename(from, to);
  } catch (error) {
    throw fileError(`rename ${from} to`, to, error);
  }
  await syncFolder(dirname(to));
  if (dirname(from) !== dirname(to)) await syncFolder(dirname(from));
}
