import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { type EmptyQcow2, emptyQcow2 } from '../core/empty-qcow2.js';
import { fileError } from './file-errors.js';
import { writeAll } from './write-all.js';

/**
 * Makes an empty qcow2 image, or of a file that is there one; through no link. It is not yet durable.
 *
 * @throws QmpBackupError `unsafe` or `failed`
 */
export async function createImage(path: string, image: EmptyQcow2): Promise<void> {
  const { O_WRONLY, O_CREAT, O_TRUNC, O_NOFOLLOW } = constants;
  const { length, parts } = emptyQcow2(image);
  try {
    const file = await open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0o600);
    try {
      for (const { offset, bytes } of parts) await writeAll(file, bytes, offset);
      await file.truncate(length);
    } finally {
      await file.close();
    }
  } catch (error) {
    throw fileError('create', path, error);
  }
}

/** Longer ones are not read whole for this: the tables of a disk of 500 TiB. Bytes. */
const READ_AT_MOST = 8 * 1024 * 1024;

/**
 * Whether the file holds what `createImage` has made of it, and not a byte else.
 *
 * @throws what the file system says, by its code
 */
export async function isEmptyImage(path: string, image: EmptyQcow2): Promise<boolean> {
  const { length, parts } = emptyQcow2(image);
  if (length > READ_AT_MOST) return false;
  const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    if ((await file.stat()).size !== length) return false;
    const made = Buffer.alloc(length);
    for (const { offset, bytes } of parts) made.set(bytes, offset);
    return made.equals(await file.readFile());
  } finally {
    await file.close();
  }
}
