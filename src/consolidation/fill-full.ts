import { copiesInKernel } from '../host/copies-in-kernel.js';
import { dropFromCache } from '../host/page-cache.js';
import { syncFile } from '../host/durable.js';
import { viewOf } from '../qemu-tools/image-view.js';
import { commit, compare, convert } from '../qemu-tools/steps.js';
import { type FillOptions, type ImageToFill, type Proof, slicesOf, wrongResult } from './image-to-fill.js';

/**
 * The state of the last file, in an image that builds on nothing. Where the file system has reflinks the kernel copies no byte.
 * Resolves to the last part of its proof, the comparison with what it was made of.
 *
 * @throws QmpBackupError `failed`, in qemu-img's own words; so does the proof
 */
export async function fillFull(image: ImageToFill, { signal, onProgress, atOnce }: FillOptions): Promise<Proof> {
  const { dir, partial, files, compress } = image;
  const path = `${dir}/${partial}`;
  const slices = slicesOf(files, atOnce);
  const own = viewOf([partial]);
  let prove: Proof = () => Promise.resolve();
  for (const [index, slice] of slices.entries()) {
    await prove();
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
    prove = async () => {
      const same = await compare(view, own, { ...long, onProgress: half(1) });
      if (!same) throw wrongResult(partial, `it does not hold the state of ${slice.at(-1)}`);
    };
  }
  return prove;
}
