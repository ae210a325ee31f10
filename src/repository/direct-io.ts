import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { codeOf, fileError } from './file-errors.js';

/**
 * Whether the file system of `path`, which must be there, takes writes that pass by the page cache. What is written so
 * is on its way to storage at once, instead of when it is flushed at the end; most file systems can, some (FUSE, older
 * tmpfs) cannot.
 */
export async function takesDirectIo(path: string): Promise<boolean> {
  try {
    await (await open(path, constants.O_RDWR | constants.O_DIRECT | constants.O_NOFOLLOW)).close();
    return true;
  } catch (error) {
    if (codeOf(error) === 'EINVAL') return false;
    throw fileError('open', path, error);
  }
}
