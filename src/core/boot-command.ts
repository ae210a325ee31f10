import { nbdNode } from './block-node.js';
import type { Hardware, HardwareDevice } from './hardware.js';
import type { Machine } from './disk.js';
import { flashByHand } from './flash-by-hand.js';
import { refusedOf } from './foreign-machine.js';
import type { NbdSource } from './nbd-address.js';
import { asShellWord } from './shell-word.js';

/** A disk of a VM that is started from a backup. */
export interface BootDisk {
  readonly disk: string;
  /** What QEMU called its drive or node, and a VM that is started again shall call its node. */
  readonly called: string | null;
  /** Absolute path of the image that takes what is written. */
  readonly image: string;
  /** Where the rest is read from; null where the image has all. */
  readonly backing: NbdSource | null;
}

export interface BootPlan {
  readonly machine: Omit<Machine, 'qemuVersion'>;
  /** Undefined where it was not recorded. */
  readonly hardware: Hardware | undefined;
  readonly disks: readonly BootDisk[];
  readonly network: 'none' | 'as-recorded';
  /** A channel for a guest agent although none is recorded. */
  readonly agent: boolean;
  /** Absolute paths. */
  readonly sockets: { readonly monitor: string; readonly agent: string };
  readonly serialLog: string;
  /** More arguments for QEMU, which come last. */
  readonly more: readonly string[];
}

export interface NodeNames {
  /** Of the image, and of what it leans on. */
  readonly top: string;
  readonly below: string;
}

export interface BootCommand {
  readonly program: string;
  readonly args: readonly string[];
  /** Of each disk, by its id. */
  readonly nodes: ReadonlyMap<string, NodeNames>;
  /** Whether the guest's agent has a channel. */
  readonly hasAgent: boolean;
  /** What of the machine is not as it was, in words. */
  readonly differs: readonly string[];
  /** What makes it impossible, in words, and what to do. */
  readonly refused: { readonly why: string; readonly hint: string } | null;
}

/** How QEMU is started for the machine of a point. */
export function commandToBoot(plan: BootPlan): BootCommand {
  const { machine, disks, sockets, serialLog, more } = plan;
  const hardware = plan.hardware && withoutFlash(plan.hardware, flashByHand(more));
  const isGiven: IsGiven = (...options) => optionsIn(more).some((name) => options.includes(name));
  const nodes = nodeNames(disks);
  const flash = pflash(hardware, nodes);
  const attached = devices(plan, nodes);
  const network = networkArguments(plan, isGiven('nic', 'net', 'netdev'));
  const asked = memoryAndCpus(machine, hardware, isGiven);
  const hasAccelerator = isGiven('accel', 'enable-kvm') || more.some((word) => /(^|,)accel=/.test(word));
  const args = [
    ...(machine.name === null ? [] : ['-name', `guest=${escaped(machine.name)}`]),
    ...(machine.uuid === null ? [] : ['-uuid', machine.uuid]),
    ...['-machine', machineArgument(machine, hardware, flash.nodes)],
    ...(hasAccelerator ? [] : ['-accel', 'kvm', '-accel', 'tcg']),
    ...asked.args,
    ...['-nodefaults', '-no-user-config'],
    ...(isGiven('display', 'vnc', 'nographic', 'spice', 'curses') ? [] : ['-display', 'none']),
    ...firmwareArguments(hardware, flash.nodes.length > 0, isGiven),
    ...['-chardev', `socket,id=qmpbackup-monitor,path=${escaped(sockets.monitor)},server=on,wait=off`],
    ...['-mon', 'chardev=qmpbackup-monitor,mode=control'],
    ...(isGiven('serial', 'nographic') ? [] : ['-serial', `file:${serialLog}`]),
    ...flash.args,
    ...disks.flatMap((disk) => nodeArguments(disk, nodes)),
    ...attached.args,
    ...network.args,
    ...more,
  ];
  return {
    ...{ program: `qemu-system-${hardware?.arch ?? 'x86_64'}`, args, nodes, hasAgent: attached.hasAgent },
    differs: [...asked.differs, ...flash.differs, ...attached.differs, ...network.differs],
    refused: refusedMachine({ machine, hardware }, isGiven) ?? asked.refused ?? network.refused,
  };
}

function withoutFlash(hardware: Hardware, isByHand: (unit: number) => boolean): Hardware {
  return { ...hardware, pflash: hardware.pflash.filter(({ unit }) => !isByHand(unit)) };
}

function refusedMachine({ machine, hardware }: Pick<BootPlan, 'machine' | 'hardware'>, isGiven: IsGiven): Refused {
  const why = refusedOf(machine, hardware, isGiven);
  if (why === null) return null;
  const hint =
    'Give such files after --, as in: -- -kernel FILE -initrd FILE (or -bios FILE; -drive if=pflash,unit=0,readonly=on,format=raw,file=FILE); or restore the disks, and start a VM with them.';
  return { why, hint };
}

/** As a script, an option with its value on a line. */
export function commandLines({ program, args }: Pick<BootCommand, 'program' | 'args'>): string {
  const lines: string[] = [program];
  for (const word of args) {
    const last = lines.at(-1) ?? '';
    const isValue = lines.length > 1 && !word.startsWith('-') && last.startsWith('-') && !last.includes(' ');
    if (isValue) lines[lines.length - 1] = `${last} ${asShellWord(word)}`;
    else lines.push(asShellWord(word));
  }
  return lines.join(' \\\n  ');
}

/** Names of the options among words for QEMU, which takes one dash or two; a value may be called as an option is. */
export function optionsIn(words: readonly string[]): readonly string[] {
  return words.filter((word) => word.startsWith('-')).map((word) => word.replace(/^--?/, ''));
}

type IsGiven = (...options: readonly string[]) => boolean;
type Refused = BootCommand['refused'];

const MiB = 1024 * 1024;

function memoryAndCpus(
  { memory, cpus, type }: BootPlan['machine'],
  hardware: Hardware | undefined,
  isGiven: IsGiven,
): { readonly args: readonly string[]; readonly differs: readonly string[]; readonly refused: Refused } {
  const refused =
    memory === null && !isGiven('m')
      ? { why: 'how much memory the VM had is not recorded', hint: 'Give it after --, as in: -- -m 2G' }
      : null;
  const size = memory === null ? [] : ['-m', memory % MiB === 0 ? `${memory / MiB}M` : `${memory}B`];
  const told = Object.entries(hardware?.topology ?? {}).map(([name, value]) => `${name}=${value}`);
  const smp = told.length > 0 ? told.join(',') : cpus === null ? null : String(cpus);
  const model = hardware?.cpu ?? null;
  return {
    args: [
      ...(isGiven('m') ? [] : size),
      ...(smp === null || isGiven('smp') ? [] : ['-smp', smp]),
      ...(model === null || isGiven('cpu') ? [] : ['-cpu', model]),
    ],
    differs: [
      ...(type === null && !isGiven('machine', 'M')
        ? ['the machine type is not recorded: it is the default of QEMU (else: -- -machine TYPE)']
        : []),
      ...(smp === null && !isGiven('smp') ? ['the number of CPUs is not recorded: it is 1 (else: -- -smp N)'] : []),
      ...(model === null && !isGiven('cpu')
        ? ['the CPU model is not recorded: it is the default of QEMU (else: -- -cpu MODEL)']
        : []),
    ],
    refused,
  };
}

function machineArgument(
  { type }: BootPlan['machine'],
  hardware: Hardware | undefined,
  flash: readonly { readonly unit: number; readonly node: string }[],
): string {
  const options = [
    ...(type === null ? [] : [`type=${type}`]),
    ...(hardware?.usb ? ['usb=on'] : []),
    ...flash.map(({ unit, node }) => `pflash${unit}=${node}`),
  ];
  // An option that changes nothing, for the last one must not be empty.
  return options.length === 0 ? 'dump-guest-core=on' : options.join(',');
}

function firmwareArguments(hardware: Hardware | undefined, hasFlash: boolean, isGiven: IsGiven): readonly string[] {
  if (!hardware) return [];
  const { firmware, kernel, initrd, append, bootOrder } = hardware;
  const hasKernel = kernel !== null && !isGiven('kernel');
  return [
    // QEMU tells of its default also where it is not used.
    ...(firmware === null || hasFlash || isGiven('bios', 'pflash') ? [] : ['-bios', firmware]),
    ...(hasKernel ? ['-kernel', kernel] : []),
    ...(hasKernel && initrd !== null && !isGiven('initrd') ? ['-initrd', initrd] : []),
    ...(kernel !== null && append !== null && !isGiven('append') ? ['-append', append] : []),
    ...(bootOrder === null || isGiven('boot') ? [] : ['-boot', `order=${bootOrder}`]),
  ];
}

// --- disks ------------------------------------------------------------------------------------------------------------

/** QEMU's rule for names of nodes. */
const NODE_NAME = /^[A-Za-z][\w.-]{0,30}$/;

/** As the VM called them, so that a backup of it knows its disks again; else, or where two are called so, by numbers. */
function nodeNames(disks: readonly BootDisk[]): ReadonlyMap<string, NodeNames> {
  return new Map(
    disks.map(({ disk, called }, index) => {
      const isTaken = disks.slice(0, index).some((each) => each.called === called);
      const top = called !== null && NODE_NAME.test(called) && !isTaken ? called : `qmpbackup-disk${index}`;
      return [disk, { top, below: `qmpbackup-below${index}` }];
    }),
  );
}

function nodeArguments({ disk, image, backing }: BootDisk, nodes: ReadonlyMap<string, NodeNames>): readonly string[] {
  const { top, below } = nodes.get(disk) ?? { top: disk, below: disk };
  const file = { driver: 'file', filename: image, discard: 'unmap' };
  const node = { driver: 'qcow2', 'node-name': top, discard: 'unmap', file, backing: backing ? below : null };
  return [
    ...(backing ? blockdev({ ...nbdNode(backing), 'node-name': below, 'read-only': true }) : []),
    ...blockdev(node),
  ];
}

function blockdev(node: object): readonly string[] {
  return ['-blockdev', JSON.stringify(node)];
}

function pflash(hardware: Hardware | undefined, names: ReadonlyMap<string, NodeNames>) {
  const args: string[] = [];
  const differs: string[] = [];
  const nodes = (hardware?.pflash ?? []).map(({ unit, disk, file, format, readOnly }) => {
    const known = disk === null ? undefined : names.get(disk);
    if (known) return { unit, node: known.top };
    const node = `qmpbackup-pflash${unit}`;
    const image = { driver: 'file', filename: file };
    const isProtocol = format === 'file';
    args.push(
      ...blockdev({
        ...(isProtocol ? image : { driver: format, file: image, ...(format === 'qcow2' ? { backing: null } : {}) }),
        ...{ 'node-name': node, 'read-only': true },
      }),
    );
    if (!readOnly) differs.push(`the firmware's variables (pflash${unit}) are not in the point: ${file} is only read`);
    return { unit, node };
  });
  return { args, differs, nodes };
}

// --- devices ----------------------------------------------------------------------------------------------------------

const AGENT_PORT = 'org.qemu.guest_agent.0';
const AGENT_CHARDEV = 'qmpbackup-agent';

interface Attached {
  readonly args: readonly string[];
  readonly differs: readonly string[];
  readonly hasAgent: boolean;
}

function devices(plan: BootPlan, nodes: ReadonlyMap<string, NodeNames>): Attached {
  const { hardware, disks, agent, sockets, more } = plan;
  const [args, differs]: [string[], string[]] = [[], []];
  const byHand = new Set(more.flatMap((word) => /(?:^|,)drive=([^,]+)/.exec(word)?.[1] ?? []));
  // Also where another flash was given in its place: it is no disk of the guest's.
  const flash = new Map(hardware?.pflash.map(({ disk, unit }) => [disk, unit]));
  const isFlashGiven = flashByHand(more);
  const recorded = hardware?.devices ?? [];
  const hasRecorded = recorded.some(({ use }) => use === 'agent');
  if (hasRecorded || agent) {
    const address = `path=${escaped(sockets.agent)},server=on,wait=off`;
    args.push('-chardev', `socket,id=${AGENT_CHARDEV},${address}`);
  }
  for (const device of recorded) {
    const node = nodes.get(device.disk ?? '')?.top;
    if (device.use === 'controller' || device.use === 'display') args.push(...deviceArguments(device));
    else if (device.use === 'agent')
      args.push(...deviceArguments(device, { chardev: AGENT_CHARDEV, name: AGENT_PORT }));
    else if (device.use === 'disk' && node === undefined)
      differs.push(`${device.driver} on ${device.bus} is left out: its medium is not in the point`);
    else if (device.use === 'disk' && node !== undefined && !byHand.has(node))
      args.push(...deviceArguments(device, { drive: node }));
  }
  if (!hardware) args.push('-device', 'VGA');
  const found = new Set(recorded.map(({ disk }) => disk));
  for (const { disk, called } of disks.filter((each) => !found.has(each.disk) && !flash.has(each.disk))) {
    const node = nodes.get(disk)?.top ?? disk;
    if (byHand.has(node)) continue;
    const driver = /^ide\d/.test(called ?? '') ? 'ide-hd' : 'virtio-blk-pci';
    args.push('-device', `${driver},drive=${node}`);
    differs.push(`the device of ${disk} is not recorded: it is ${driver} (else: -- -device DRIVER,drive=${node})`);
  }
  for (const { disk } of disks) {
    const [unit, node] = [flash.get(disk), nodes.get(disk)?.top ?? disk];
    if (unit === undefined || !isFlashGiven(unit) || more.some((word) => word.includes(`=${node}`))) continue;
    differs.push(`${disk} is left out: flash was given in its place (else: -- -machine pflash${unit}=${node})`);
  }
  if (agent && !hasRecorded) {
    args.push('-device', 'virtio-serial-pci,id=qmpbackup-serial');
    args.push('-device', `virtserialport,bus=qmpbackup-serial.0,chardev=${AGENT_CHARDEV},name=${AGENT_PORT}`);
  }
  const others = hardware?.others ?? [];
  if (others.length > 0) differs.push(`devices that are left out: ${others.join(', ')}`);
  return { args, differs, hasAgent: hasRecorded || agent };
}

function deviceArguments(
  { driver, id, bus, properties }: HardwareDevice,
  more: Readonly<Record<string, string>> = {},
): readonly string[] {
  const place: Readonly<Record<string, string>> = bus === 'main-system-bus' ? {} : { bus };
  const name: Readonly<Record<string, string>> = id === null ? {} : { id };
  const options = { ...name, ...place, ...properties, ...more };
  return ['-device', [driver, ...Object.entries(options).map(([key, value]) => `${key}=${escaped(value)}`)].join(',')];
}

// --- network ----------------------------------------------------------------------------------------------------------

function networkArguments(
  { hardware, network }: BootPlan,
  isByHand: boolean,
): Omit<Attached, 'hasAgent'> & { readonly refused: Refused } {
  if (network === 'none') return { args: isByHand ? [] : ['-nic', 'none'], differs: [], refused: null };
  const hint = 'Leave --network out and give the network yourself, as in: -- -nic user,model=virtio-net-pci,mac=MAC';
  if (!hardware) return { args: [], differs: [], refused: { why: 'the network of the VM is not recorded', hint } };
  const [args, differs]: [string[], string[]] = [[], []];
  for (const [index, card] of hardware.devices.filter(({ use }) => use === 'network').entries()) {
    const peer = peerOptions(card.peer ?? '');
    const kind = peer.get('type');
    const id = `qmpbackup-net${index}`;
    if (kind === 'user') {
      args.push('-netdev', `user,id=${id},restrict=${peer.get('restrict') === 'on' ? 'on' : 'off'}`);
      differs.push(`ports that were forwarded to ${card.properties.mac ?? card.driver} are not recorded`);
    } else if (kind === 'tap' && peer.has('ifname')) {
      // A program of the host's is run for nobody's backup.
      args.push('-netdev', `tap,id=${id},ifname=${peer.get('ifname')},script=no,downscript=no`);
      differs.push(`${peer.get('ifname')} is joined to no bridge by a script: do that by hand`);
    } else {
      const why = `what is recorded of the network is not enough to make it again: ${card.driver}, ${card.peer ?? 'without a peer'}`;
      return { args: [], differs: [], refused: { why, hint } };
    }
    args.push(...deviceArguments(card, { netdev: id }));
  }
  return { args, differs, refused: null };
}

/** `type=tap,ifname=foo` */
function peerOptions(peer: string): ReadonlyMap<string, string> {
  return new Map(peer.split(',').map((each) => [each.replace(/=.*$/s, ''), each.replace(/^[^=]*=?/, '')] as const));
}

/** A comma inside a value is written twice. */
function escaped(value: string): string {
  return value.replaceAll(',', ',,');
}
