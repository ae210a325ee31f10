import type { SourceDisk, VmState } from '../../core/disk.js';
import { checkpointBitmap } from '../../core/reconcile.js';
import { virshCommand } from '../../core/virsh-hint.js';
import { QmpBackupError } from '../../errors.js';
import { eachDisk } from '../../flow/all-of.js';
import type { DomainState } from '../../libvirt/domain-state.js';
import type { DomainDisk } from '../../libvirt/domain-xml.js';
import { imageBitmaps, removeImageBitmap } from '../../qemu-tools/bitmaps.js';
import type { ImageFile } from '../../qemu-tools/image-file.js';
import { domainImage, isImage } from './offline-image.js';

/** The bitmaps of a domain that is off lie in its images. libvirt neither looks at them there nor removes them. */

type Domain = Pick<DomainState, 'name' | 'connect' | 'disks' | 'sizes' | 'unsized' | 'checkpoints'>;

/**
 * Removes a bitmap from the top image of each disk that has it, or from none. Images below may belong to others, too.
 *
 * @throws QmpBackupError `unsafe` where an image that has it is not written to; when one is open in some QEMU, or cannot be
 * read or written
 */
export async function removeFromImages(domain: Domain, name: string): Promise<void> {
  const images: ImageFile[] = [];
  for (const disk of domain.disks) {
    if (disk.source === null || disk.device !== 'disk' || disk.format !== 'qcow2' || disk.readOnly) continue;
    const hasIt = domain.checkpoints.some((each) => each.name === name && each.disks.some(isOf(disk)));
    const image = await domainImage(disk, domain);
    const why = whyNotWritten(image);
    if (why === null && isImage(image)) {
      if ((await imageBitmaps(image)).some((bitmap) => bitmap.name === name)) images.push(image);
    } else if (hasIt) {
      throw new QmpBackupError('unsafe', `the bitmap ${name} stays in the image of ${disk.target}: ${why}`, {
        hint: `It goes with its checkpoint when the domain runs: ${virshCommand(domain.connect, 'start', domain.name)}, then run cleanup again.`,
      });
    }
  }
  for (const image of images) await removeImageBitmap(image, name);
}

/** By target: why nothing is removed from its image while the domain is off. */
export async function unwritten(domain: Domain): Promise<ReadonlyMap<string, string>> {
  const found = await eachDisk(domain.disks, async (disk) => {
    if (disk.source?.path !== null) return [];
    const why = whyNotWritten(await domainImage(disk, domain));
    return why === null ? [] : [[disk.target, why] as const];
  });
  return new Map(found.flat());
}

/** Other hosts may have the domain, or its storage, too: only QEMU's locks on files and devices tell. */
function whyNotWritten(image: ImageFile | { readonly why: string }): string | null {
  if (!isImage(image)) return image.why;
  return image.place.kind === 'network' ? `nothing keeps others from writing to ${image.path} meanwhile` : null;
}

function isOf({ target }: DomainDisk) {
  return (each: { readonly target: string }): boolean => each.target === target;
}

/** The state with each disk's bitmaps as the images have them. A checkpoint whose bitmap is missing counts as broken. */
export async function withImageBitmaps(state: VmState, domain: Domain): Promise<VmState> {
  return { ...state, disks: await Promise.all(state.disks.map((disk) => asInImage(disk, domain))) };
}

async function asInImage(disk: SourceDisk, domain: Domain): Promise<SourceDisk> {
  if (disk.unreadable) return disk;
  const defined = domain.disks.find(({ target }) => target === disk.address);
  const image = disk.format === 'qcow2' && defined ? await domainImage(defined, domain) : null;
  if (!image || !isImage(image)) return disk;
  const found = new Map(
    (await imageBitmaps(image, { shared: true })).map(({ name, inconsistent }) => [name, inconsistent]),
  );
  const known = disk.bitmaps.map((bitmap) => ({ ...bitmap, inconsistent: found.get(bitmap.name) ?? true }));
  const names = new Set(known.map(({ name }) => name));
  const others = [...found].filter(([name]) => !names.has(name));
  return {
    ...disk,
    bitmaps: [
      ...known,
      ...others.map(([name, inconsistent]) => ({ ...checkpointBitmap(name, disk.virtualSize), inconsistent })),
    ],
  };
}
