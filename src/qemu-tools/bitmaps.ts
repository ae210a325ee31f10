import { nameOfNode, qcow2Node } from '../core/block-node.js';
import { QmpBackupError } from '../errors.js';
import { type ImageFile, placeNode } from './image-file.js';
import { parseImageInfo } from './image-info.js';
import { runShort } from './runner.js';

/** A persistent bitmap of an image. */
export interface ImageBitmap {
  readonly name: string;
  /** The image was not closed cleanly; the bitmap can only be removed. */
  readonly inconsistent: boolean;
}

/**
 * The bitmaps of an image that no QEMU has open: one that does is reported in qemu-img's own words. With `shared` of one
 * that may be open: then those that QEMU found in it and has not removed.
 */
export async function imageBitmaps(
  image: ImageFile,
  options: { readonly shared?: boolean } = {},
): Promise<readonly ImageBitmap[]> {
  return (await lookAtImage(image, options)).bitmaps;
}

/** As `imageBitmaps`, with the size of the disk in bytes. */
export async function lookAtImage(
  image: ImageFile,
  { shared = false }: { readonly shared?: boolean } = {},
): Promise<{ readonly virtualSize: number; readonly bitmaps: readonly ImageBitmap[] }> {
  const { stdout } = await runShort([...['info', '--output=json', ...(shared ? ['--force-share'] : [])], topOf(image)]);
  const { all, virtualSize } = parseImageInfo(stdout);
  const { 'format-specific': specific } = all as { readonly 'format-specific'?: { readonly data?: unknown } };
  const { bitmaps } = (specific?.data ?? {}) as { readonly bitmaps?: readonly BitmapInfo[] };
  const found = (bitmaps ?? []).map(({ name, flags }) => ({ name, inconsistent: flags.includes('in-use') }));
  return { virtualSize, bitmaps: found };
}

/** One bitmap as `qemu-img info --output=json` tells it. */
interface BitmapInfo {
  readonly name: string;
  readonly flags: readonly string[];
}

/** @throws QmpBackupError where it is still there afterwards, whatever qemu-img said */
export async function removeImageBitmap(image: ImageFile, name: string): Promise<void> {
  await runShort(['bitmap', '--remove', topOf(image), name]);
  if ((await imageBitmaps(image)).every((bitmap) => bitmap.name !== name)) return;
  throw new QmpBackupError('failed', `the bitmap ${name} is still in ${image.path}`);
}

/** The image alone: what its header names below it is not opened. */
function topOf({ place }: ImageFile): string {
  return nameOfNode(qcow2Node(placeNode(place), null));
}
