import { copiesInKernel } from '../host/copies-in-kernel.js';
import { dropFromCache } from '../host/page-cache.js';
import { syncFile } from '../host/durable.js';
import { viewOf } from '../qemu-tools/image-view.js';
import { commit, compare, convert } from '../qemu-tools/steps.js';
import { type FillOptions, type ImageToFill, slicesOf, wrongResult } from './image-to-fill.js';

/**
 * The state of the last file, in an image that builds on nothing; compared with what it was made of. Where the file system has
 * reflinks the kernel copies no byte.
 *
 * @throws QmpBackupError `failed`, in qemu-img's own words
 */
export async function fillFull(image: ImageToFill, { signal, onProgress, atOnce }: FillOptions): Promise<void> {
  const { dir, partial, files, compress } = image;
  const path = `${dir}/${partial}`;
  const slices = slicesOf(files, atOnce);
  const own = viewOf([partial]);
  for (const [index, slice] of slices.entries()) {
    const half = (part: 0 | 1) => (percent: number) =>
      onProgress((index * 100 + (percent + part * 100) / 2) / slices.length);
    const long = { cwd: dir, signal };
    const view = viewOf(index === 0 ? slice : [partial, ...slice]);
    if (index === 0) {
      const offload = !compress && copiesInKernel(dir, dir);
      await convert(view, path, { ...long, existing: true, compress, offload, onProgress: half(0) });
    } else {
      await commit(view, partial, { ...long, onProgress: half(0) });
    }
    await syncFile(path);
    // What the storage has is compared, and not what is still in memory of its writing.
    await dropFromCache(path);
    const same = await compare(view, own, { ...long, onProgress: half(1) });
    if (!same) throw wrongResult(partial, `it does not hold the state of ${slice.at(-1)}`);
  }
}
