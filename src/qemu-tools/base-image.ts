import { nameOfNode } from '../core/block-node.js';
import { QmpBackupError } from '../errors.js';
import { type ImageFile, imageFile } from './image-file.js';
import { parseImageInfo } from './image-info.js';
import { offlineNode, refusingWriters } from './offline-image.js';
import { runShort } from './runner.js';

/**
 * An image that is to build on nothing, in any format that QEMU reads. `format`: null lets QEMU guess, as it does when it opens a chain
 * whose headers do not say. Size in bytes.
 *
 * @throws QmpBackupError `unsafe` where it builds on something, or is in use; `failed` in qemu-img's words
 */
export async function baseImage(
  path: string,
  format: string | null,
): Promise<{ readonly image: ImageFile; readonly virtualSize: number }> {
  const named =
    format ?? parseImageInfo((await runShort(['info', '--output=json', '-U', `file:${path}`])).stdout).format;
  const image = await imageFile({ path, format: named });
  const { stdout } = await refusingWriters(path, () =>
    runShort(['info', '--output=json', nameOfNode(offlineNode(image))]),
  );
  const { backingFile, virtualSize } = parseImageInfo(stdout);
  if (backingFile === null) return { image, virtualSize };
  throw new QmpBackupError('unsafe', `${path}, of format ${named}, builds on ${backingFile}`, {
    hint: 'Only qcow2 images can build on others here. Convert it first: qemu-img convert -O qcow2.',
  });
}
