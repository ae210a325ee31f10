import { resolve } from 'node:path';
import { viewOf } from './image-view.js';
import { runShort } from './runner.js';
import { parseImageInfo } from './image-info.js';

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
  image: string,
  { shared = false }: { readonly shared?: boolean } = {},
): Promise<readonly ImageBitmap[]> {
  const { stdout } = await runShort([
    ...['info', '--output=json', ...(shared ? ['--force-share'] : [])],
    viewOf([resolve(image)]),
  ]);
  const { all } = parseImageInfo(stdout);
  const { 'format-specific': specific } = all as { readonly 'format-specific'?: { readonly data?: unknown } };
  const { bitmaps } = (specific?.data ?? {}) as { readonly bitmaps?: readonly BitmapInfo[] };
  return (bitmaps ?? []).map(({ name, flags }) => ({ name, inconsistent: flags.includes('in-use') }));
}

/** One bitmap as `qemu-img info --output=json` tells it. */
interface BitmapInfo {
  readonly name: string;
  readonly flags: readonly string[];
}

export async function removeImageBitmap(image: string, name: string): Promise<void> {
  await runShort(['bitmap', '--remove', viewOf([resolve(image)]), name]);
}
