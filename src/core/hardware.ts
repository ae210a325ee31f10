import * as v from 'valibot';
import { parseDeviceTree, type TreeDevice } from './device-tree.js';
import type { GuestDevice } from './guest-devices.js';
import type { ReadOnly } from './read-only.js';

const textSchema = v.nullable(v.string());

/**
 * The machine of a VM as far as it must be known to start it again, beside type, memory and number of CPUs. Every field may be
 * unknown: what a QEMU does not tell is null, or not in a list.
 */
const hardwareDevice = v.object({
  /** As `-device` names it. */
  driver: v.string(),
  id: textSchema,
  /** Name of the bus that it was on. */
  bus: v.string(),
  /** As `-device` takes them. */
  properties: v.record(v.string(), v.string()),
  use: v.picklist(['controller', 'disk', 'network', 'display', 'agent']),
  /** Of a disk: its id in the point; null where it is in none. */
  disk: v.optional(textSchema),
  /** Of a network card: what HMP's `info network` tells of what it was connected to. */
  peer: v.optional(textSchema),
});

export const hardwareSchema = v.object({
  /** `x86_64`: which QEMU. */
  arch: textSchema,
  /** `Nehalem`. */
  cpu: textSchema,
  /** As `-smp` takes it. */
  topology: v.nullable(v.record(v.string(), v.number())),
  /** As `-bios` takes it. */
  firmware: textSchema,
  kernel: textSchema,
  initrd: textSchema,
  append: textSchema,
  /** As `-boot order=` takes it. */
  bootOrder: textSchema,
  /** A USB controller of the machine's own. */
  usb: v.boolean(),
  pflash: v.array(
    v.object({
      unit: v.number(),
      /** Its id in the point; null where it is in none, and `file` is all that is known. */
      disk: textSchema,
      file: v.string(),
      format: v.string(),
      readOnly: v.boolean(),
    }),
  ),
  /** Controllers before what is on them, older ones first. */
  devices: v.array(hardwareDevice),
  /** Devices that somebody gave the VM and that are not among these, in words. */
  others: v.array(v.string()),
});

export type Hardware = ReadOnly<v.InferOutput<typeof hardwareSchema>>;
export type HardwareDevice = ReadOnly<v.InferOutput<typeof hardwareDevice>>;

/** A medium of the VM, as QEMU's devices name it. */
export interface Medium {
  /** Names of it that a device's `drive` may have: that of the drive, or of its top node. */
  readonly names: readonly string[];
  /** Its id in the point; null where it is in none. */
  readonly disk: string | null;
  readonly file: string;
  readonly format: string;
  readonly readOnly: boolean;
  /** Of its device; null where it has none, or none is known. */
  readonly bootIndex: number | null;
}

/** What QEMU has answered; null where it refused. */
export interface HardwareAnswers {
  readonly arch: string | null;
  /** `Nehalem-x86_64-cpu`. */
  readonly cpuType: string | null;
  readonly topology: Readonly<Record<string, unknown>> | null;
  readonly firmware: string | null;
  readonly kernel: string | null;
  readonly initrd: string | null;
  readonly append: string | null;
  readonly bootOrder: string | null;
  readonly usb: boolean;
  /** Of HMP. */
  readonly tree: string | null;
  readonly network: string | null;
  /** Those of the command line, or plugged in later. */
  readonly given: readonly GuestDevice[];
  readonly media: readonly Medium[];
}

export function hardwareOf(answers: HardwareAnswers): Hardware {
  const { arch, firmware, kernel, initrd, append, bootOrder, usb } = answers;
  const tree = parseDeviceTree(answers.tree ?? '');
  return {
    ...{ arch, cpu: answers.cpuType?.replace(/-[a-z0-9_]+-cpu$/, '') ?? null, topology: topologyOf(answers.topology) },
    ...{ firmware: firmware || null, kernel: kernel || null, initrd: initrd || null, append: append || null },
    ...{ bootOrder: bootOrder || null, usb, pflash: pflashOf(tree, answers.media), ...devicesOf(tree, answers) },
  };
}

/** QEMU tells of all that any machine has; what is 1 there need not be said, and some machines refuse it. */
const ALWAYS_SAID = ['cpus', 'maxcpus', 'sockets', 'cores', 'threads'];

function topologyOf(told: HardwareAnswers['topology']): Hardware['topology'] {
  if (!told) return null;
  const numbers = Object.entries(told).flatMap(([name, value]) =>
    typeof value === 'number' ? [[name, value] as const] : [],
  );
  return Object.fromEntries(numbers.filter(([name, value]) => value > 1 || ALWAYS_SAID.includes(name)));
}

function pflashOf(tree: readonly TreeDevice[], media: readonly Medium[]): Hardware['pflash'] {
  return tree.flatMap(({ driver, properties }) => {
    const [, unit] = /^system\.flash(\d+)$/.exec(properties.get('name') ?? '') ?? [];
    const medium = driver === 'cfi.pflash01' ? mediumOf(properties, media) : undefined;
    if (unit === undefined || !medium) return [];
    const { disk, file, format, readOnly } = medium;
    return [{ unit: Number(unit), disk, file, format, readOnly }];
  });
}

function mediumOf(properties: ReadonlyMap<string, string>, media: readonly Medium[]): Medium | undefined {
  const drive = properties.get('drive');
  return drive === undefined ? undefined : media.find(({ names }) => names.includes(drive));
}

const AGENT_PORT = 'org.qemu.guest_agent.0';

function devicesOf(
  tree: readonly TreeDevice[],
  { given, media, network }: HardwareAnswers,
): Pick<Hardware, 'devices' | 'others'> {
  const isGiven = givenTest(tree, given);
  const devices: HardwareDevice[] = [];
  const others: string[] = [];
  for (const device of tree.filter((each) => !isPartOfAnother(each))) {
    const all = [device, ...tree.filter((each) => isPartOf(each, device))];
    const told = propertiesOf(all);
    // Of the disk within a usb-storage only the medium is the device's: it takes no place on a SCSI bus.
    const own = propertiesOf(all.filter((each) => each === device || each.bus === 'virtio-bus'));
    const medium = mediumOf(told, media);
    const { driver, id, bus } = device;
    const made = (use: HardwareDevice['use'], names: readonly string[]): HardwareDevice => ({
      ...{ driver, id, bus, properties: chosen(own, names), use },
    });
    if (driver.startsWith('cfi.pflash')) continue;
    if (medium) {
      const disk = made('disk', [...PLACE, ...DISK]);
      const boot: Record<string, string> = medium.bootIndex === null ? {} : { bootindex: `${medium.bootIndex}` };
      devices.push({ ...disk, properties: { ...disk.properties, ...boot }, disk: medium.disk });
    } else if (told.has('netdev') && told.has('mac')) {
      devices.push({ ...made('network', [...PLACE, 'mac']), peer: peerOf(told.get('netdev') ?? '', network) });
    } else if (/^(VGA|Display) controller$/.test(device.pciClass ?? '')) {
      devices.push(made('display', [...PLACE, ...DISPLAY]));
    } else if (told.get('name') === AGENT_PORT) {
      devices.push(made('agent', ['nr']));
    } else if (isGiven(device)) {
      const offers = all.some(({ buses }) => buses.some((each) => each !== 'virtio-bus'));
      // A host bus adapter whose disks others serve, or the host's own hardware, is not ours to start again.
      if (offers && !/^(vhost|vfio)-/.test(driver)) devices.push(made('controller', [...PLACE, ...CONTROLLER]));
      else others.push(id === null ? driver : `${driver} (${id})`);
    }
  }
  return { devices, others };
}

function propertiesOf(devices: readonly TreeDevice[]): ReadonlyMap<string, string> {
  return new Map(devices.flatMap(({ properties }) => [...properties]));
}

/** `virtio-blk-device` on the bus of `virtio-blk-pci` alone; the disk that QEMU itself makes for a `usb-storage`. */
function isPartOfAnother({ bus, parent }: TreeDevice): boolean {
  return bus === 'virtio-bus' || parent?.driver === 'usb-storage';
}

function isPartOf(device: TreeDevice, whole: TreeDevice): boolean {
  return device.parent === whole && isPartOfAnother(device);
}

/**
 * Whether somebody gave the VM a device, and it is not the machine's own. One with an id is given; of others the machine makes
 * its own first, and the tree does not tell them apart.
 */
function givenTest(tree: readonly TreeDevice[], given: readonly GuestDevice[]): (device: TreeDevice) => boolean {
  const nameless = tree.filter(({ id }) => id === null);
  const last = new Set<TreeDevice>();
  for (const type of new Set(given.filter(({ name, path }) => name === path).map((each) => each.type))) {
    const count = given.filter((each) => each.type === type && each.name === each.path).length;
    for (const device of nameless.filter(({ driver }) => driver === type).slice(-count)) last.add(device);
  }
  return (device) => device.id !== null || last.has(device);
}

const PLACE = ['addr', 'multifunction', 'port', 'unit', 'channel', 'scsi-id', 'lun'];
const DISK = [
  ...['serial', 'wwn', 'logical_block_size', 'physical_block_size', 'model', 'vendor', 'product', 'device_id'],
  ...['removable', 'rotation_rate'],
];
const DISPLAY = ['vgamem_mb', 'ram_size', 'vram_size', 'xres', 'yres'];
const CONTROLLER = ['chassis', 'slot', 'chassis_nr', 'max_ports', 'serial'];

/** Places and looks: all that is recorded of any device. None of them names a file, a program, or something of the host's. */
export const RECORDED_PROPERTIES: ReadonlySet<string> = new Set([
  ...[...PLACE, ...DISK, ...DISPLAY, ...CONTROLLER],
  ...['nr', 'mac', 'bootindex'],
]);

/** Values that say nothing. */
const UNSET: Readonly<Record<string, string>> = {
  ...{ wwn: '0', removable: 'false', rotation_rate: '0', multifunction: 'false', xres: '0', yres: '0' },
};

function chosen(told: ReadonlyMap<string, string>, names: readonly string[]): Record<string, string> {
  const values = names.map((name) => [name, told.get(name) ?? ''] as const);
  return Object.fromEntries(
    values.filter(([name, value]) => value !== '' && value !== '<null>' && value !== UNSET[name]),
  );
}

/** ` \ #net038: index=0,type=tap,ifname=foo,script=no,downscript=no` below the line of its card. */
function peerOf(netdev: string, network: string | null): string | null {
  const line = (network ?? '').split(/\r?\n/).find((each) => each.replace(/^[ \\]+/, '').startsWith(`${netdev}: `));
  return line?.slice(line.indexOf(': ') + 2).trim() ?? null;
}

/** What is known of the machine of a point: recorded with it, or with the latest before it of the same chain. */
export function recordedHardware<P extends { readonly id: string; readonly chain: string | null }>(
  points: readonly (P & { readonly machine: { readonly hardware?: Hardware | undefined } })[],
  of: Pick<P, 'id' | 'chain'>,
): Hardware | undefined {
  const until = points.findIndex(({ id }) => id === of.id);
  const line = points
    .slice(0, until < 0 ? points.length : until + 1)
    .filter((each) => each.id === of.id || (of.chain !== null && each.chain === of.chain));
  return line.findLast(({ machine }) => machine.hardware !== undefined)?.machine.hardware;
}
