import { isAbsolute } from 'node:path';
import type { SourceDisk, VmState } from '../../domain/disk.js';
import { checkpointBitmap } from '../../domain/reconcile.js';
import type { DomainDisk } from '../../libvirt/domain-xml.js';
import { imageBitmaps, removeImageBitmap } from '../../qemu-img/bitmaps.js';

/** The bitmaps of a domain that is off lie in its images. libvirt neither looks at them there nor removes them. */

/**
 * Removes a bitmap from the top image of each disk that has it. Images below may belong to others, too.
 *
 * @throws QmpBackupError when an image is open in some QEMU, or cannot be read or written
 */
export async function removeFromImages(disks: readonly DomainDisk[], name: string): Promise<void> {
  for (const { device, format, readOnly, source } of disks) {
    const file = source?.path ?? null;
    if (file === null || device !== 'disk' || format !== 'qcow2' || readOnly) continue;
    if ((await imageBitmaps(file)).some((bitmap) => bitmap.name === name)) await removeImageBitmap(file, name);
  }
}

/** The state with each disk's bitmaps as the images have them. A checkpoint whose bitmap is missing counts as broken. */
export async function withImageBitmaps(state: VmState): Promise<VmState> {
  return { ...state, disks: await Promise.all(state.disks.map(asInImage)) };
}

async function asInImage(disk: SourceDisk): Promise<SourceDisk> {
  if (disk.format !== 'qcow2' || !isAbsolute(disk.file)) return disk;
  const found = new Map(
    (await imageBitmaps(disk.file, { shared: true })).map(({ name, inconsistent }) => [name, inconsistent]),
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
