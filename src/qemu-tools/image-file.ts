import { stat } from 'node:fs/promises';
import { type BlockNodeSpec, fileNode } from '../core/block-node.js';
import { messageOf, QmpBackupError } from '../errors.js';

/** An image of a VM that is off, with all that it builds on, as its own headers say: what the VM itself would open. */
export interface ImageFile {
  /** For people: a path, or what is reached over the network. */
  readonly path: string;
  readonly format: string;
  readonly place: ImagePlace;
}

export type ImagePlace =
  | { readonly kind: 'file'; readonly path: string; readonly length: number }
  | { readonly kind: 'device'; readonly path: string }
  /** Nothing keeps others from writing to it. */
  | { readonly kind: 'network'; readonly node: BlockNodeSpec };

/** `path` is absolute. @throws QmpBackupError `unsafe` */
export async function imageFile({ path, format }: Pick<ImageFile, 'path' | 'format'>): Promise<ImageFile> {
  try {
    const found = await stat(path);
    if (found.isFile()) return { path, format, place: { kind: 'file', path, length: found.size } };
    if (found.isBlockDevice()) return { path, format, place: { kind: 'device', path } };
    throw new Error('it is neither a file nor a block device');
  } catch (error) {
    throw new QmpBackupError('unsafe', `the image ${path} cannot be read: ${messageOf(error)}`, {
      cause: error,
      hint: 'Nothing was changed. Check the path, and that this user may read it.',
    });
  }
}

/** As a block node, below that of its format. */
export function placeNode(place: ImagePlace): BlockNodeSpec {
  if (place.kind === 'network') return place.node;
  return place.kind === 'device' ? { driver: 'host_device', filename: place.path } : fileNode(place.path);
}
