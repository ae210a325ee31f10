/** The disks of a test VM, and QEMU's command line for them. */
import type { ImageFormat } from './disk-images.js';

export interface Disk {
  /** Device name (via `drive` and `if`), node name of the format node (via `blockdev`). */
  readonly id: string;
  /** Absolute path; none is a drive without a medium. */
  readonly file?: string;
  /** qcow2 unless told. */
  readonly format?: ImageFormat;
  /** virtio unless told; `pflash` is always via `if`. */
  readonly interface?: 'virtio' | 'scsi' | 'ide' | 'usb' | 'pflash';
  /**
   * How the command line says it: `-drive if=none` with `-device` (the default), `-blockdev` with `-device`, or the
   * old `-drive if=virtio` and so on, whose guest device has no id.
   */
  readonly via?: 'drive' | 'blockdev' | 'if';
  /** Id of the guest device; `dev-<id>` unless told. */
  readonly device?: string;
  /** Per second; a throttle filter with `-blockdev`, a property of the drive with `-drive`. */
  readonly throttle?: Throttle;
  /**
   * Id of the iothread that serves the disk; QEMU's main loop unless told. Several share its queues (virtio, QEMU 9 and later); scsi
   * disks have one controller, and so one iothread.
   */
  readonly iothread?: string | readonly string[];
  readonly readOnly?: boolean;
  readonly media?: 'disk' | 'cdrom';
  /** More options for `-drive` or for the format node of `-blockdev`. */
  readonly options?: Readonly<Record<string, string>>;
}

export interface Throttle {
  readonly bytes?: number;
  readonly operations?: number;
  /** Disks that name the same one share the limits; a group of its own unless told. */
  readonly group?: string;
}

export interface LabDisk extends Disk {
  readonly args: readonly string[];
  /** How HMP `qemu-io` names the disk: device name, or `-d` and the guest device. */
  readonly hmpReference: string;
}

export function driveArguments(disk: Disk): LabDisk {
  const { id, via = 'drive', interface: bus = 'virtio' } = disk;
  const device = disk.device ?? `dev-${id}`;
  if (via === 'if' || bus === 'pflash') {
    return { ...disk, hmpReference: id, args: ['-drive', driveOption(disk, bus === 'pflash' ? 'pflash' : bus)] };
  }
  if (via === 'drive') {
    return {
      ...disk,
      hmpReference: id,
      args: ['-drive', driveOption(disk, 'none'), '-device', deviceArgument(disk, device, id)],
    };
  }
  const top = disk.throttle ? `${id}-throttle` : id;
  const medium = disk.file === undefined ? [] : blockdevArguments(disk);
  return {
    ...disk,
    hmpReference: `-d /machine/peripheral/${device}${bus === 'virtio' ? '/virtio-backend' : ''}`,
    args: [...medium, '-device', deviceArgument(disk, device, disk.file === undefined ? undefined : top)],
  };
}

function deviceArgument(disk: Disk, id: string, drive: string | undefined): string {
  const { iothread } = disk;
  if (typeof iothread === 'object') {
    // Lists are said in JSON alone.
    const mapping = iothread.map((each) => ({ iothread: each }));
    return JSON.stringify({
      ...{ driver: 'virtio-blk-pci', drive, id, 'num-queues': iothread.length },
      'iothread-vq-mapping': mapping,
    });
  }
  return `${deviceModel(disk, iothread)}${drive === undefined ? '' : `,drive=${drive}`},id=${id}`;
}

/** The controller of scsi disks; nothing where there are none. */
export function scsiController(disks: readonly Disk[]): readonly string[] {
  const scsi = disks.filter((disk) => disk.interface === 'scsi');
  const iothread = scsi.map((disk) => disk.iothread).find((each) => typeof each === 'string');
  const served = iothread === undefined ? '' : `,iothread=${iothread}`;
  return scsi.length === 0 ? [] : ['-device', `virtio-scsi-pci,id=lab-scsi${served}`];
}

/** The controller of USB disks; nothing where there are none. */
export function usbController(disks: readonly Disk[]): readonly string[] {
  return disks.some((disk) => disk.interface === 'usb') ? ['-device', 'qemu-xhci,id=lab-usb'] : [];
}

export function iothreadArguments(disks: readonly Disk[]): readonly string[] {
  const ids = new Set(disks.flatMap(({ iothread }) => iothread ?? []));
  return [...ids].flatMap((id) => ['-object', `iothread,id=${id}`]);
}

function deviceModel(disk: Disk, iothread: string | undefined): string {
  const type = disk.media === 'cdrom' ? 'cd' : 'hd';
  switch (disk.interface ?? 'virtio') {
    case 'virtio':
      return `virtio-blk-pci${iothread === undefined ? '' : `,iothread=${iothread}`}`;
    case 'scsi':
      return `scsi-${type},bus=lab-scsi.0`;
    case 'ide':
      return `ide-${type}`;
    case 'usb':
      return 'usb-storage,bus=lab-usb.0';
    case 'pflash':
      throw new Error('pflash is no guest device');
  }
}

function driveOption(disk: Disk, bus: string): string {
  return option({
    if: bus,
    id: disk.id,
    ...(disk.file !== undefined && { file: disk.file, format: disk.format ?? 'qcow2' }),
    // Without it a guest's discard never reaches the image.
    ...(disk.media !== 'cdrom' && { discard: 'unmap' }),
    ...(disk.media !== undefined && { media: disk.media }),
    ...(disk.readOnly && { readonly: 'on' }),
    ...(disk.throttle?.bytes !== undefined && { 'throttling.bps-total': String(disk.throttle.bytes) }),
    ...(disk.throttle?.operations !== undefined && { 'throttling.iops-total': String(disk.throttle.operations) }),
    ...(disk.throttle?.group !== undefined && { 'throttling.group': disk.throttle.group }),
    ...disk.options,
  });
}

function blockdevArguments(disk: Disk): string[] {
  const readOnly: Record<string, string> = disk.readOnly ? { 'read-only': 'on' } : {};
  const node = option({
    driver: disk.format ?? 'qcow2',
    'node-name': disk.id,
    discard: 'unmap',
    'file.driver': 'file',
    'file.node-name': `${disk.id}-file`,
    'file.filename': disk.file ?? '',
    'file.discard': 'unmap',
    ...(disk.readOnly && { 'file.read-only': 'on' }),
    ...readOnly,
    ...disk.options,
  });
  if (!disk.throttle) return ['-blockdev', node];
  const group = disk.throttle.group ?? `${disk.id}-limit`;
  const own = ['-object', option({ 'qom-type': 'throttle-group', id: group, ...limits(disk.throttle) })];
  return [
    ...(disk.throttle.group === undefined ? own : []),
    ...['-blockdev', node],
    ...[
      '-blockdev',
      option({
        driver: 'throttle',
        'node-name': `${disk.id}-throttle`,
        'throttle-group': group,
        file: disk.id,
        discard: 'unmap',
        ...readOnly,
      }),
    ],
  ];
}

/** The objects of groups that disks share, which come before the disks; drives need none. */
export function sharedGroups(disks: readonly Disk[]): readonly string[] {
  const shared = disks.flatMap(({ via, throttle }) =>
    via === 'blockdev' && throttle?.group !== undefined ? [throttle] : [],
  );
  const groups = new Map(shared.map((throttle) => [throttle.group, throttle]));
  return [...groups].flatMap(([id = '', throttle]) => [
    ...['-object', option({ 'qom-type': 'throttle-group', id, ...limits(throttle) })],
  ]);
}

function limits(throttle: Throttle): Record<string, string> {
  return {
    ...(throttle.bytes !== undefined && { 'x-bps-total': String(throttle.bytes) }),
    ...(throttle.operations !== undefined && { 'x-iops-total': String(throttle.operations) }),
  };
}

/** A comma inside a value is written twice. */
function option(values: Readonly<Record<string, string>>): string {
  return Object.entries(values)
    .map(([key, value]) => `${key}=${value.replaceAll(',', ',,')}`)
    .join(',');
}
