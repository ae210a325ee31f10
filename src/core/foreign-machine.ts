import { type Hardware, type HardwareDevice, RECORDED_PROPERTIES } from './hardware.js';
import type { Machine } from './disk.js';
import { printable } from './printable.js';

/**
 * Why a recorded machine is not started as it stands; null where it may be. A catalog can come from anybody, and QEMU opens what
 * its options name and runs what they say: only what cannot lead anywhere else is taken from there, and files of the host only
 * where nobody but root writes.
 *
 * @param isGiven whether one of these options of QEMU comes after `--` in its place
 */
export function refusedOf(
  machine: Pick<Machine, 'type' | 'uuid'>,
  hardware: Hardware | undefined,
  isGiven: (...options: readonly string[]) => boolean,
): string | null {
  const { type, uuid } = machine;
  if (type !== null && !PLAIN.test(type)) return odd('machine type', type);
  if (uuid !== null && !/^[0-9a-fA-F-]{36}$/.test(uuid)) return odd('UUID', uuid);
  if (!hardware) return null;
  const { arch, cpu, topology, bootOrder, firmware, kernel, initrd, pflash, devices } = hardware;
  if (arch !== null && !/^[a-z0-9_]{1,32}$/.test(arch)) return odd('architecture', arch);
  if (cpu !== null && !PLAIN.test(cpu)) return odd('CPU model', cpu);
  if (bootOrder !== null && !/^[a-p]{1,16}$/.test(bootOrder)) return odd('boot order', bootOrder);
  for (const [name, value] of Object.entries(topology ?? {})) {
    if (!/^[a-z]{1,32}$/.test(name) || !Number.isSafeInteger(value)) return odd('topology', `${name}=${value}`);
  }
  const files = [
    ...(firmware === null || PLAIN.test(firmware) || isGiven('bios', 'pflash') ? [] : [firmware]),
    ...(kernel === null || isGiven('kernel')
      ? []
      : [kernel, ...(initrd === null || isGiven('initrd') ? [] : [initrd])]),
  ];
  for (const { unit, disk, file, format } of pflash) {
    if (!Number.isSafeInteger(unit) || !['raw', 'file', 'qcow2'].includes(format)) return odd('firmware', format);
    if (disk === null) files.push(file);
  }
  const elsewhere = files.find((file) => !isOfSystem(file));
  if (elsewhere !== undefined) {
    return `it was started with ${shown(elsewhere)}, and a backup does not say which files of this host QEMU may open`;
  }
  return devices.map(oddDevice).find((why) => why !== null) ?? null;
}

/** Where packages put firmware, kernels and their initial file systems. */
const OF_SYSTEM = ['/usr/share/', '/usr/lib/', '/usr/lib64/', '/boot/'];

function isOfSystem(file: string): boolean {
  return OF_SYSTEM.some((folder) => file.startsWith(folder)) && !file.split('/').includes('..');
}

const OF_HOST = /^(vfio|vhost|usb-host|scsi-generic|scsi-block|loader|guest-loader|ivshmem|pci-assign)/;

function oddDevice({ driver, properties, peer }: HardwareDevice): string | null {
  if (!PLAIN.test(driver) || OF_HOST.test(driver)) return odd('device', driver);
  const property = Object.keys(properties).find((name) => !RECORDED_PROPERTIES.has(name));
  if (property !== undefined) return odd('property of a device', `${driver}.${property}`);
  const name = /(?:^|,)ifname=([^,]*)/.exec(peer ?? '')?.[1];
  return name === undefined || /^[\w.-]{1,15}$/.test(name) ? null : odd('network interface', name);
}

const PLAIN = /^[A-Za-z0-9][\w.-]{0,63}$/;

function odd(what: string, value: string): string {
  return `what is recorded as its ${what} is none: ${shown(value)}`;
}

function shown(value: string): string {
  return printable(value).slice(0, 200);
}
