import { isAbsolute } from 'node:path';
import type { SourceDisk } from '../../core/disk.js';
import { isFailure } from '../../core/failure.js';
import { isOurBitmap } from '../../core/names.js';
import { checkpointBitmap } from '../../core/reconcile.js';
import { collectFailure } from '../../flow/collect-failure.js';
import { redefineCheckpoint } from '../../libvirt/backup.js';
import { imageBitmaps } from '../../qemu-tools/bitmaps.js';
import { imageFile } from '../../qemu-tools/image-file.js';
import type { DomainSession } from './session.js';

/** A bitmap of ours in an image that libvirt has no checkpoint for: it forgets those with the domain. */
export interface OrphanBitmap {
  readonly target: string;
  readonly bitmap: string;
}

/**
 * A QEMU that runs keeps the names of the bitmaps that it found in an image there until it removes them. `skipUnreadable`
 * is for who must not be held up by an image that only QEMU can read.
 */
export async function orphanBitmaps(
  { domain, state }: Pick<DomainSession, 'domain' | 'state'>,
  { skipUnreadable = false }: { readonly skipUnreadable?: boolean } = {},
): Promise<readonly OrphanBitmap[]> {
  const known = new Set(domain.checkpoints.map(({ name }) => name));
  const images = state.disks.filter(({ format, file }) => format === 'qcow2' && isAbsolute(file));
  const found = await Promise.all(
    images.map(async ({ address: target, file }) => {
      const asked = imageFile({ path: file, format: 'qcow2' }).then((image) => imageBitmaps(image, { shared: true }));
      const bitmaps = skipUnreadable ? await collectFailure(asked) : await asked;
      return isFailure(bitmaps) ? [] : bitmaps.map(({ name }) => ({ target, bitmap: name }));
    }),
  );
  return found.flat().filter(({ bitmap }) => isOurBitmap(bitmap) && !known.has(bitmap));
}

/** The disks, with what libvirt has forgotten of their bitmaps. */
export async function withOrphanBitmaps(
  session: Pick<DomainSession, 'domain' | 'state'>,
  disks: readonly SourceDisk[],
): Promise<readonly SourceDisk[]> {
  const orphans = await orphanBitmaps(session, { skipUnreadable: true });
  return disks.map((disk) => {
    const found = orphans.filter(({ target }) => target === disk.address);
    const bitmaps = found.map(({ bitmap }) => checkpointBitmap(bitmap, disk.virtualSize));
    return { ...disk, bitmaps: [...disk.bitmaps, ...bitmaps] };
  });
}

/** libvirt removes only bitmaps of checkpoints that it knows, and believes what it is told of them. */
export async function redefineOrphan(
  { virsh, uuid, domain }: DomainSession,
  name: string,
  disks: readonly string[],
): Promise<void> {
  const without = domain.disks.map(({ target }) => target).filter((target) => !disks.includes(target));
  const creationTime = Math.floor(Date.now() / 1000);
  await redefineCheckpoint(virsh, uuid, { name, creationTime, disks, without }, { validate: false });
}
