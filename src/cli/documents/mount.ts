import type { Warning } from '../../core/warning.js';
import type { MountResult } from '../../operations/mount/mount.js';
import type { UmountResult } from '../../operations/mount/umount.js';
import { envelope } from './envelope.js';
import { warningPart } from './parts.js';
import type { MountDocument } from './schemas/mount.js';
import type { UmountDocument } from './schemas/umount.js';

export function mountDocument(mounted: MountResult, warnings: readonly Warning[]): MountDocument {
  const { target, point, mountpoint, disks } = mounted;
  return {
    ...envelope('mount'),
    ...{ target, point, mountpoint },
    disks: disks.map(({ disk, path, virtualSize, files }) => ({ disk, path, virtualSize, files })),
    warnings: warnings.map(warningPart),
  };
}

export function umountDocument(ended: UmountResult, warnings: readonly Warning[]): UmountDocument {
  const { mountpoint, files, dead } = ended;
  return { ...envelope('umount'), ...{ mountpoint, files, dead }, warnings: warnings.map(warningPart) };
}
