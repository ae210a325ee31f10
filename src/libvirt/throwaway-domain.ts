/**
 * The definition of a domain that is started to see whether it runs, and ended again, maybe beside the original: with the
 * guest's own devices, and without all that is the host's, somebody else's, or for people to look at.
 */
import { withUuid } from './restored-domain.js';
import { append, editAt, editChildren, element, removeChildren, withAttributes, writeXml } from './xml-edit.js';
import { attribute, find, findAll, parseXml, type XmlElement } from './xml.js';

export interface Throwaway {
  readonly uuid: string;
  /** Text for whoever finds it. */
  readonly description: string;
  /** Targets of the disks that it writes to. */
  readonly disks: ReadonlySet<string>;
  /** Absolute path; where somebody listens for what it says on its first serial port. */
  readonly serialSocket: string;
  /** A channel for the guest agent although it had none. */
  readonly agent: boolean;
}

export interface ThrowawayDefinition {
  readonly xml: string;
  /** `kvm`, `qemu`. */
  readonly type: string;
  readonly hasAgent: boolean;
}

const AGENT = 'org.qemu.guest_agent.0';

/** @throws LibvirtAnswerError for text that is no domain */
export function throwawayDomain(xml: string, throwaway: Throwaway): ThrowawayDefinition {
  const { uuid, description, agent } = throwaway;
  const recorded = parseXml(xml, 'domain');
  const had = findAll(find(recorded, 'devices'), 'channel').some((each) => portOf(each) === AGENT);
  const added = agent && !had ? [channel(AGENT)] : [];
  const edited = editChildren(withUuid(removeChildren(recorded, OF_THE_HOST), uuid), (child) => {
    switch (child.name) {
      case 'vcpu':
        return withAttributes(child, { cpuset: null });
      case 'cpu':
        return editAt(child, ['numa', 'cell'], (cell) => withAttributes(cell, { memAccess: null }));
      case 'devices':
        return append(
          withSerialPort(
            editChildren(child, (each) => kept(each, throwaway)),
            throwaway,
          ),
          added,
        );
      default:
        return child.name.includes(':') ? null : child;
    }
  });
  const whole = append(edited, [
    element('description', {}, description),
    element('on_poweroff', {}, 'destroy'),
    // So that its screen can still be looked at.
    element('on_crash', {}, 'preserve'),
  ]);
  return { xml: writeXml(whole), type: attribute(recorded, 'type') ?? 'kvm', hasAgent: had || agent };
}

/** Shares of the host, labels, and what is said anew. Arguments for QEMU have names with a colon. */
const OF_THE_HOST = [
  ...['title', 'description', 'metadata', 'seclabel', 'resource'],
  ...['cputune', 'numatune', 'memtune', 'blkiotune', 'memoryBacking'],
  ...['on_poweroff', 'on_crash'],
];

/** What reaches out of the guest, and is no disk, network card or port. */
const REACHING_OUT = [
  ...['hostdev', 'redirdev', 'redirfilter', 'smartcard', 'filesystem'],
  ...['shmem', 'lease', 'vsock', 'graphics', 'console'],
];

/** As the guest sees it, with nothing behind it; null where that cannot be. */
function kept(device: XmlElement, { disks }: Throwaway): XmlElement | null {
  if (REACHING_OUT.includes(device.name)) return null;
  switch (device.name) {
    case 'disk':
      return disks.has(attribute(find(device, 'target'), 'dev') ?? '') ? withoutCare(device) : device;
    case 'interface':
      return unlinkedCard(device);
    case 'channel':
      return attribute(find(device, 'target'), 'type') === 'virtio' ? emptyChannel(device) : null;
    case 'parallel':
      return emptyPort(device);
    case 'memory':
      return ['dimm', 'virtio-mem'].includes(attribute(device, 'model') ?? '') ? device : null;
    case 'input':
      return ['passthrough', 'evdev'].includes(attribute(device, 'type') ?? '') ? null : device;
    case 'tpm':
      return attribute(find(device, 'backend'), 'type') === 'emulator'
        ? editAt(device, ['backend', 'source'], () => null)
        : null;
    case 'rng':
      return attribute(find(device, 'backend'), 'model') === 'egd' ? null : device;
    case 'video':
      return editAt(device, ['model', 'acceleration'], () => null);
    case 'audio':
      return element('audio', { id: attribute(device, 'id') ?? '1', type: 'none' });
    case 'watchdog':
      // It may be told to write down the guest's memory.
      return withAttributes(device, { action: 'none' });
    default:
      return device;
  }
}

/** Nobody keeps what is written, and its file may be on a file system that knows no direct I/O. */
function withoutCare(disk: XmlElement): XmlElement {
  const rest = removeChildren(disk, ['iotune', 'shareable', 'transient']);
  // A disk that the guest gave commands of SCSI is an image now.
  const isPassedOn = attribute(disk, 'device') === 'lun';
  const image = isPassedOn ? withAttributes(rest, { device: 'disk', rawio: null, sgio: null }) : rest;
  return editAt(image, ['driver'], (driver) =>
    withAttributes(driver, { cache: 'unsafe', io: null, copy_on_read: null }),
  );
}

/** The card that the guest knows, by its address, without its link, and with nothing of the host's on the other side. */
function unlinkedCard(card: XmlElement): XmlElement | null {
  if (attribute(card, 'type') === 'hostdev') return null;
  const own = editChildren(card, (child) =>
    ['mac', 'model', 'address', 'rom', 'boot', 'acpi'].includes(child.name) ? child : null,
  );
  const bare = withAttributes(own, { type: 'user', trustGuestRxFilters: null, managed: null });
  return append(bare, [element('link', { state: 'down' })]);
}

function channel(name: string): XmlElement {
  return append(element('channel', { type: 'unix' }), [element('target', { type: 'virtio', name })]);
}

/** libvirt itself is behind that of the agent. */
function emptyChannel(given: XmlElement): XmlElement {
  const bare = onlyTarget(given);
  const target = editAt(bare, ['target'], (each) => withAttributes(each, { state: null }));
  return withAttributes(target, { type: portOf(given) === AGENT ? 'unix' : 'null' });
}

function emptyPort(given: XmlElement): XmlElement {
  return withAttributes(onlyTarget(given), { type: 'null' });
}

function onlyTarget(port: XmlElement): XmlElement {
  return editChildren(port, (child) => (['target', 'address'].includes(child.name) ? child : null));
}

function portOf(given: XmlElement): string | null {
  return attribute(find(given, 'target'), 'name');
}

/** What is said on the first of the serial ports goes to the socket; there is one. */
function withSerialPort(devices: XmlElement, { serialSocket }: Throwaway): XmlElement {
  const source = element('source', { mode: 'connect', path: serialSocket });
  const heard = (port: XmlElement): XmlElement => append(withAttributes(port, { type: 'unix' }), [source]);
  const [first] = findAll(devices, 'serial');
  if (!first) return append(devices, [heard(element('serial', { type: 'null' }))]);
  return editChildren(devices, (each) => {
    if (each.name !== 'serial') return each;
    return each === first ? heard(emptyPort(each)) : emptyPort(each);
  });
}
