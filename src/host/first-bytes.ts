import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { fileError } from './file-errors.js';

/**
 * The first `count` bytes of a file or block device, fewer where it is shorter. A pipe is not waited for.
 *
 * @throws QmpBackupError
 */
export async function firstBytes(path: string, count: number): Promise<Buffer> {
  try {
    const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const { buffer, bytesRead } = await handle.read(Buffer.alloc(count), 0, count, 0);
      return buffer.subarray(0, bytesRead);
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw fileError('read', path, error);
  }
}
