import type { LeftOut } from './disk.js';

/**
 * Devices of a guest on which it keeps data that QEMU's block layer does not see, or not all of it: they are in no backup, and
 * must be said. What `query-block` lists is not enough, so the types of all devices are looked at.
 */
export interface GuestDevice {
  /** Its id, or its path where it has none. */
  readonly name: string;
  /** Where it is in QEMU's object model. */
  readonly path: string;
  /** `virtio-blk-pci`. */
  readonly type: string;
}

/** The memory of a device whose contents stay: its file is the guest's disk. */
export interface MemoryFile {
  readonly file: string;
  /** What the guest writes reaches the file. */
  readonly kept: boolean;
}

type Left = Omit<LeftOut, 'name'>;

const ELSEWHERE = 'Back it up where that program keeps its data, or in the guest.';

/** Of the host's SCSI commands that the guest gives itself no bitmap and no filter knows (7.2: the bitmap counts 0). */
export const COMMANDS_OF_ITS_OWN: Left = {
  kind: 'rule',
  reason: 'a SCSI device passed through to the guest, whose writes QEMU cannot track',
  instead: 'Back it up where its storage is, or in the guest.',
};

export const VHOST_USER_DISK: Left = {
  kind: 'rule',
  reason: 'a vhost-user disk: another program serves it, and QEMU does not see its data',
  instead: ELSEWHERE,
};

export const SERVED_SCSI: Left = {
  kind: 'rule',
  reason: 'a SCSI host whose disks the kernel or another program serves, and QEMU does not see their data',
  instead: ELSEWHERE,
};

export function memoryDisk(file: string): Left {
  const reason = `persistent memory (${file}), which QEMU has no backup jobs for`;
  return { kind: 'rule', reason, instead: 'Copy its file while the VM is off.' };
}

/** Disks that `query-block` does not list. `memory`: by the path of the device. */
export function unlistedDisks(
  devices: readonly GuestDevice[],
  memory: ReadonlyMap<string, MemoryFile>,
): readonly LeftOut[] {
  return devices.flatMap(({ name, path, type }): LeftOut[] => {
    if (isOf(type, 'vhost-user-blk')) return [{ name, ...VHOST_USER_DISK }];
    if (isOf(type, 'vhost-scsi') || isOf(type, 'vhost-user-scsi')) return [{ name, ...SERVED_SCSI }];
    const file = memory.get(path);
    return file?.kept ? [{ name, ...memoryDisk(file.file) }] : [];
  });
}

export function isPersistentMemory({ type }: GuestDevice): boolean {
  return type === 'nvdimm' || isOf(type, 'virtio-pmem');
}

/** It may be a disk, a network card, anything. */
export function isPassedThrough({ type }: GuestDevice): boolean {
  return isOf(type, 'vfio-pci') || isOf(type, 'vfio-ccw') || isOf(type, 'vhost-vdpa-device') || type === 'usb-host';
}

/** Whether the guest's commands go to the device as they are. `qdev` is a path below the device's, or its bare id. */
export function bypassesQemu(qdev: string | undefined, devices: readonly GuestDevice[]): boolean {
  if (qdev === undefined) return false;
  const above = devices.filter(({ name, path }) => qdev === name || `${qdev}/`.startsWith(`${path}/`));
  return above.some(({ type }) => ['scsi-block', 'scsi-generic'].includes(type));
}

/** `vhost-user-blk-pci`, `…-pci-transitional`, `…-ccw`. */
function isOf(type: string, model: string): boolean {
  return type === model || type.startsWith(`${model}-`);
}
