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
