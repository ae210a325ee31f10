import { isFailure } from '../../core/failure.js';
import { eachDisk } from '../../flow/all-of.js';
import { collectFailure } from '../../flow/collect-failure.js';
import type { DomainState } from '../../libvirt/domain-state.js';
import type { DomainDisk } from '../../libvirt/domain-xml.js';
import { inspectDomain } from '../../libvirt/domain.js';
import { inspectOfflineImage } from '../../qemu-tools/offline-image.js';
import { domainImage, isImage } from './offline-image.js';

/**
 * As `inspectDomain`, for a libvirt of this host: of a domain that is off libvirt does not tell the size of what it reaches over
 * the network, and QEMU's programs do.
 */
export async function seeDomain(...asked: Parameters<typeof inspectDomain>): Promise<DomainState> {
  return withNetworkSizes(await inspectDomain(...asked));
}

export async function withNetworkSizes(domain: DomainState): Promise<DomainState> {
  const unseen = domain.active
    ? []
    : domain.disks.filter(({ target, source }) => source?.network && !domain.sizes.get(target));
  if (unseen.length === 0) return domain;
  const sizes = new Map(domain.sizes);
  const unsized = new Map(domain.unsized);
  await eachDisk(unseen, async (disk) => {
    const size = await collectFailure(sizeOf(disk, domain));
    if (typeof size === 'number') sizes.set(disk.target, { capacity: size, allocation: size, physical: null });
    else unsized.set(disk.target, isFailure(size) ? size.failed : size.why);
  });
  return { ...domain, sizes, unsized };
}

async function sizeOf(disk: DomainDisk, domain: DomainState): Promise<number | { readonly why: string }> {
  const image = await domainImage(disk, domain);
  return isImage(image) ? (await inspectOfflineImage(image)).virtualSize : image;
}
