import { stat } from 'node:fs/promises';
import type { ImageState } from '../core/overlay-record.js';
import { codeOf, fileError } from './file-errors.js';

/** What tells whether an image is written to. A file that cannot be looked at is a fault: nothing would be known of what it holds. */
export async function imageState(image: string): Promise<ImageState> {
  if (!image.startsWith('/')) return { image, file: null };
  try {
    const seen = await stat(image, { bigint: true });
    if (!seen.isFile()) return { image, file: null };
    return { image, file: { bytes: String(seen.size), modified: String(seen.mtimeNs) } };
  } catch (error) {
    if (codeOf(error) === undefined) throw error;
    throw fileError('look at', image, error);
  }
}
