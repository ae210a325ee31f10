import { QmpBackupError } from '../../errors.js';
import type { DomainState } from '../../libvirt/domain-state.js';
import type { DomainDisk } from '../../libvirt/domain-xml.js';
import { isNode, networkNode } from '../../libvirt/network-node.js';
import { type ImageFile, imageFile } from '../../qemu-tools/image-file.js';

type Sized = Pick<DomainState, 'sizes' | 'unsized'>;

/**
 * What QEMU's programs open of a disk of a domain that is off; in words why they cannot, where only the domain's own QEMU can.
 *
 * @throws QmpBackupError `unsafe` where the image is missing, or is not the one that libvirt has there
 */
export async function domainImage(
  { target, source, format: told }: DomainDisk,
  { sizes, unsized }: Sized,
): Promise<ImageFile | { readonly why: string }> {
  const format = told ?? 'raw';
  if (source === null) return { why: 'it has no medium' };
  const { path, description, network, sliced } = source;
  if (sliced) return { why: `only a part of ${path ?? description} is the disk` };
  if (path !== null) {
    const image = await imageFile({ path, format });
    const length = sizes.get(target)?.physical ?? null;
    if (image.place.kind === 'file' && length !== null && image.place.length !== length) {
      throw new QmpBackupError(
        'unsafe',
        `${path} is not what libvirt has there: it tells ${length} bytes, and the file that is seen here has ${image.place.length}`,
        {
          hint: 'Nothing was changed. Either somebody is writing to it, or libvirt sees other files (another mount namespace, or host): run qmpbackup where libvirt runs.',
        },
      );
    }
    return image;
  }
  if (!network) return { why: unsized.get(target) ?? `it is ${description}, no file of this host` };
  const node = networkNode(network);
  return isNode(node) ? { path: description, format, place: { kind: 'network', node } } : node;
}

/** Whether it is one that `domainImage` gave. */
export function isImage(image: ImageFile | { readonly why: string }): image is ImageFile {
  return 'place' in image;
}
