import { basename } from 'node:path';
import { messageOf, QmpBackupError } from '../errors.js';
import { readHeader } from './examine.js';
import { viewOf } from './image-view.js';
import { runShort } from './runner.js';

/**
 * Whether a QEMU has the qcow2 image at `path` open for writing, by the locks that it puts on its images. Where locks do
 * not work the answer is false, as for a file that is no image or names another one: that is not opened.
 *
 * @throws QmpBackupError `failed` when the file cannot be looked at for another reason
 */
export async function isBeingWritten(path: string): Promise<boolean> {
  try {
    const { dataFile } = await readHeader(path, basename(path));
    if (dataFile) return false;
    await runShort(['info', viewOf([path])]);
    return false;
  } catch (error) {
    if (!(error instanceof QmpBackupError)) throw error;
    if (error.code === 'damaged' || error.code === 'unsafe') return false;
    if (/Failed to get .*lock/.test(messageOf(error))) return true;
    throw error;
  }
}
