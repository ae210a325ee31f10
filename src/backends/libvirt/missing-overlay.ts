import { basename, dirname } from 'node:path';
import type { SourceDisk } from '../../core/disk.js';
import { isOverlay } from '../../core/overlay-names.js';
import { collectFailure } from '../../flow/collect-failure.js';
import { isBehindLinks } from '../../host/is-there.js';
import type { DomainDisk } from '../../libvirt/domain-xml.js';
import { imagesOf } from '../../libvirt/image-layers.js';

/**
 * Why a disk of a domain that is off has nothing to be read: an overlay of ours that it is on is not there, as where its folder is not
 * mounted, or cannot be looked at. Null where all are there. Whoever starts the domain on what is below that overlay loses what the guest
 * has written.
 */
export async function missingOverlay(disk: DomainDisk): Promise<SourceDisk['unreadable'] | null> {
  for (const { path } of imagesOf(disk)) {
    if (path === null || !isOverlay(basename(path))) continue;
    const there = await collectFailure(isBehindLinks(path));
    if (there === true) continue;
    const what = there === false ? 'which is not there' : `which cannot be looked at (${there.failed})`;
    return {
      why: `${disk.target} is on the overlay ${path}, ${what}: it holds all that the guest wrote since the last run`,
      todo: `Nothing was changed. Mount ${dirname(path)} again, or put its files back there. Do not start the domain on the image below the overlay: what the guest wrote would be lost.`,
    };
  }
  return null;
}
