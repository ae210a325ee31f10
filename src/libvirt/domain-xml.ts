/**
 * What a domain's XML says that a backup needs. Read from `virsh dumpxml`: of a running domain it also names aliases
 * and backing chains, of one that is off it does not.
 */
import type { LeftOut } from '../core/disk.js';
import type { OverlayRecord } from '../core/overlay-record.js';
import { LibvirtAnswerError } from './errors.js';
import { passedThroughIn, unlistedIn } from './guest-devices.js';
import { overlayRecordsIn } from './overlay-records.js';
import { attribute, find, findAll, parseXml, textAt, type XmlElement } from './xml.js';

export interface DomainDefinition {
  readonly name: string;
  readonly uuid: string;
  /** `kvm`, `qemu`: libvirt's driver. Backup jobs exist for these. */
  readonly type: string;
  /** A QEMU process has the disks open; also one whose guest has crashed and that is kept (`on_crash`). */
  readonly active: boolean;
  readonly disks: readonly DomainDisk[];
  /** Disks that are no `<disk>`, and so in no backup. */
  readonly unlisted: readonly LeftOut[];
  /** Devices of the host that are the guest's. */
  readonly passedThrough: readonly string[];
  readonly agent: AgentChannel;
  /** The file that keeps UEFI variables. */
  readonly nvram: string | null;
  readonly tpm: TpmState;
  /** `pc-i440fx-7.2`. */
  readonly machine: string | null;
  /** Bytes. */
  readonly memory: number | null;
  readonly cpus: number | null;
  /** How many iothreads it has. */
  readonly iothreads: number;
  /** Whom the QEMU of a running domain runs as, where libvirt says it. */
  readonly owner: { readonly uid: number; readonly gid: number } | null;
  readonly overlayRecords: readonly OverlayRecord[];
}

/**
 * Where the state of its TPM is: `default` is libvirt's own place, known by the domain's UUID; `elsewhere` a place that
 * the definition names; `none` where there is no TPM, or one of the host.
 */
export type TpmState = 'none' | 'default' | 'elsewhere';

/** `absent`: no channel for it. What is not running says `configured`. */
export type AgentChannel = 'absent' | 'configured' | 'connected' | 'disconnected';

export interface DomainDisk {
  /** `vda`: unique in the domain, and how libvirt addresses the disk. */
  readonly target: string;
  readonly device: 'disk' | 'cdrom' | 'floppy' | 'lun';
  readonly bus: string | null;
  /** Of the top image: `qcow2`, `raw`; null when it is not said. */
  readonly format: string | null;
  readonly source: DomainDiskSource | null;
  readonly readOnly: boolean;
  readonly shareable: boolean;
  /** Changes are dropped when the domain ends. */
  readonly transient: boolean;
  /** The image, or one below it, is encrypted, and QEMU gives everybody its clear text. */
  readonly encrypted: boolean;
  readonly serial: string | null;
  /** Id of the guest device: `virtio-disk0`. Only of a running domain. */
  readonly alias: string | null;
  /** Below the top image, nearest first. Only of a running domain; for others the image headers say it. */
  readonly backing: readonly BackingImage[];
}

export interface BackingImage {
  readonly format: string | null;
  readonly source: DomainDiskSource | null;
}

export interface DomainDiskSource {
  /** `file`, `block`, `network`, `volume`, `dir`, `nvme`, `vhostuser` … */
  readonly type: string;
  /** Absolute path, when there is one (`file`, `block`, and a `volume` that is one of these). */
  readonly path: string | null;
  /** For people: the path, or `rbd:pool/image`, `volume pool/name`. */
  readonly description: string;
  readonly volume?: { readonly pool: string; readonly name: string };
  readonly network?: NetworkSource;
  /** It is a part of its image. */
  readonly sliced?: true;
}

export interface NetworkSource {
  /** `nbd`, `rbd`, `iscsi` … */
  readonly protocol: string;
  readonly name: string | null;
  readonly hosts: readonly {
    readonly transport: string;
    readonly name: string | null;
    readonly port: string | null;
    readonly socket: string | null;
  }[];
  /** It wants a key or a password. */
  readonly secret: boolean;
  readonly tls: boolean;
  readonly snapshot: string | null;
  /** Path of a file that tells how to get there. */
  readonly config: string | null;
  readonly initiator: string | null;
}

/** Throws `LibvirtAnswerError` for what is no domain. */
export function parseDomain(xml: string): DomainDefinition {
  const domain = parseXml(xml, 'domain');
  const name = textAt(domain, 'name');
  const uuid = textAt(domain, 'uuid');
  if (name === null || uuid === null) throw new LibvirtAnswerError('the <domain> of libvirt', xml);
  const devices = find(domain, 'devices');
  return {
    name,
    uuid: uuid.toLowerCase(),
    type: attribute(domain, 'type') ?? '',
    active: attribute(domain, 'id') !== null,
    disks: findAll(devices, 'disk').flatMap((disk) => parseDisk(disk) ?? []),
    unlisted: unlistedIn(domain),
    passedThrough: passedThroughIn(devices),
    agent: agentChannel(devices),
    nvram: textAt(domain, 'os', 'nvram') ?? attribute(find(domain, 'os', 'nvram', 'source'), 'file'),
    tpm: tpmState(find(devices, 'tpm', 'backend')),
    machine: attribute(find(domain, 'os', 'type'), 'machine'),
    memory: bytesAt(find(domain, 'memory')),
    cpus: numberOf(textAt(domain, 'vcpu')),
    iothreads: numberOf(textAt(domain, 'iothreads')) ?? 0,
    owner: ownerOf(domain),
    overlayRecords: overlayRecordsIn(domain),
  };
}

function parseDisk(disk: XmlElement): DomainDisk | undefined {
  const target = attribute(find(disk, 'target'), 'dev');
  if (target === null) return undefined;
  return {
    target,
    device: deviceOf(attribute(disk, 'device')),
    bus: attribute(find(disk, 'target'), 'bus'),
    format: attribute(find(disk, 'driver'), 'type'),
    source: sourceOf(disk),
    readOnly: find(disk, 'readonly') !== undefined,
    shareable: find(disk, 'shareable') !== undefined,
    transient: find(disk, 'transient') !== undefined,
    encrypted: isEncrypted(disk),
    serial: textAt(disk, 'serial'),
    alias: attribute(find(disk, 'alias'), 'name'),
    backing: backingOf(disk),
  };
}

function numberOf(text: string | null): number | null {
  return text !== null && /^\d+$/.test(text.trim()) ? Number(text) : null;
}

/** libvirt itself always tells KiB. */
function bytesAt(memory: XmlElement | undefined): number | null {
  const kib = numberOf(memory?.text ?? null);
  return kib === null || (attribute(memory, 'unit') ?? 'KiB') !== 'KiB' ? null : kib * 1024;
}

/** `<seclabel model='dac'><label>+64055:+106</label></seclabel>`. */
function ownerOf(domain: XmlElement): DomainDefinition['owner'] {
  const label = findAll(domain, 'seclabel').find((each) => attribute(each, 'model') === 'dac');
  const [, uid, gid] = /^\+(\d+):\+(\d+)$/.exec(textAt(label ?? domain, 'label') ?? '') ?? [];
  return label === undefined || uid === undefined || gid === undefined ? null : { uid: Number(uid), gid: Number(gid) };
}

function deviceOf(device: string | null): DomainDisk['device'] {
  return device === 'cdrom' || device === 'floppy' || device === 'lun' ? device : 'disk';
}

function tpmState(backend: XmlElement | undefined): TpmState {
  if (attribute(backend, 'type') !== 'emulator') return 'none';
  return find(backend, 'source') ? 'elsewhere' : 'default';
}

/** `<encryption>` stands beside `<source>` or within it. */
function isEncrypted(image: XmlElement): boolean {
  if (find(image, 'encryption') ?? find(image, 'source', 'encryption')) return true;
  const backing = find(image, 'backingStore');
  return backing !== undefined && isEncrypted(backing);
}

/** The last <backingStore/> of a chain is empty: it says that there is nothing below. */
function backingOf(image: XmlElement): BackingImage[] {
  const backing = find(image, 'backingStore');
  const source = backing && sourceOf(backing);
  if (!backing || !source) return [];
  return [{ format: attribute(find(backing, 'format'), 'type'), source }, ...backingOf(backing)];
}

function sourceOf(owner: XmlElement): DomainDiskSource | null {
  const source = find(owner, 'source');
  if (!source) return null;
  const type = attribute(owner, 'type') ?? 'file';
  const path = attribute(source, 'file') ?? attribute(source, 'dev');
  const description = path ?? describe(type, source);
  if (description === null) return null;
  const [pool, volume] = [attribute(source, 'pool'), attribute(source, 'volume')];
  return {
    ...{ type, path, description },
    ...(type === 'volume' && pool !== null && volume !== null ? { volume: { pool, name: volume } } : {}),
    ...(type === 'network' ? { network: networkOf(owner, source) } : {}),
    ...(find(source, 'slices') ? { sliced: true } : {}),
  };
}

/** `<auth>` stands beside `<source>` or within it. */
function networkOf(owner: XmlElement, source: XmlElement): NetworkSource {
  return {
    protocol: attribute(source, 'protocol') ?? '',
    name: attribute(source, 'name'),
    hosts: findAll(source, 'host').map((host) => ({
      transport: attribute(host, 'transport') ?? 'tcp',
      ...{ name: attribute(host, 'name'), port: attribute(host, 'port'), socket: attribute(host, 'socket') },
    })),
    secret: (find(owner, 'auth') ?? find(source, 'auth')) !== undefined,
    tls: attribute(source, 'tls') === 'yes',
    snapshot: attribute(find(source, 'snapshot'), 'name'),
    config: attribute(find(source, 'config'), 'file'),
    initiator: attribute(find(source, 'initiator', 'iqn'), 'name'),
  };
}

function describe(type: string, source: XmlElement): string | null {
  const name = attribute(source, 'name');
  const volume = attribute(source, 'volume');
  if (volume !== null) return `volume ${attribute(source, 'pool') ?? ''}/${volume}`;
  if (name !== null) return `${attribute(source, 'protocol') ?? type}:${name}`;
  // <source startupPolicy='optional'/> of a drive without a medium.
  return attribute(source, 'dir') ?? attribute(source, 'path') ?? (source.children.length > 0 ? type : null);
}

function agentChannel(devices: XmlElement | undefined): AgentChannel {
  const targets = findAll(devices, 'channel').map((channel) => find(channel, 'target'));
  const target = targets.find((one) => attribute(one, 'name') === 'org.qemu.guest_agent.0');
  if (!target) return 'absent';
  const state = attribute(target, 'state');
  return state === 'connected' || state === 'disconnected' ? state : 'configured';
}
