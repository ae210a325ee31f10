/** What a second domain of the same definition would share with the first: ports, files, devices of the host, addresses. */
import { attribute, find, findAll, textAt, type XmlElement } from './xml.js';

/** In words, each once. */
export function sharedThings(domain: XmlElement): readonly string[] {
  const devices = find(domain, 'devices');
  const all = (devices?.children ?? []).flatMap((device) => [
    ...(OF_DEVICE[device.name]?.(device) ?? []),
    ...asChannel(device),
  ]);
  const hostDevices = [
    ...findAll(devices, 'hostdev'),
    ...findAll(devices, 'interface').filter((each) => attribute(each, 'type') === 'hostdev'),
  ].length;
  const args = findAll(find(domain, 'qemu:commandline'), 'qemu:arg').flatMap((arg) => attribute(arg, 'value') ?? []);
  return [
    ...new Set([
      ...(hostDevices === 0 ? [] : [hostDevices === 1 ? 'a device of the host' : `${hostDevices} devices of the host`]),
      ...all,
      ...(args.length === 0 ? [] : [`what QEMU is given by arguments of its own (${args.join(' ')})`]),
    ]),
  ];
}

type Things = (device: XmlElement) => readonly string[];

const OF_DEVICE: Readonly<Record<string, Things>> = {
  graphics: (graphics) => {
    const type = attribute(graphics, 'type') ?? 'display';
    const automatic = attribute(graphics, 'autoport') === 'yes';
    const ports = [...(automatic ? [] : ['port', 'tlsPort']), 'websocket'].flatMap((name) => {
      const port = Number(attribute(graphics, name) ?? -1);
      return port > 0 ? [`port ${port} (${type})`] : [];
    });
    const sockets = [graphics, ...findAll(graphics, 'listen')].flatMap((each) => attribute(each, 'socket') ?? []);
    return [...ports, ...sockets];
  },
  filesystem: (share) => {
    const source = find(share, 'source');
    const names = ['dir', 'socket', 'name', 'dev', 'file'].flatMap((name) => attribute(source, name) ?? []);
    return [names[0] ?? 'a file system'];
  },
  vsock: (vsock) => {
    const cid = find(vsock, 'cid');
    const address = attribute(cid, 'auto') === 'yes' ? null : attribute(cid, 'address');
    return address === null ? [] : [`the vsock CID ${address}`];
  },
  // NVDIMM and virtio-pmem.
  memory: (memory) => optional(textAt(memory, 'source', 'path')),
  shmem: (memory) => optional(attribute(memory, 'name')).map((name) => `the shared memory ${name}`),
  lease: (lease) => optional(textAt(lease, 'key')).map((key) => `the lease ${key}`),
  audio: (audio) => (attribute(audio, 'type') === 'file' ? optional(attribute(audio, 'path')) : []),
  input: (input) => ['evdev', 'dev'].flatMap((name) => attribute(find(input, 'source'), name) ?? []),
  tpm: (tpm) => optional(attribute(find(tpm, 'backend', 'device'), 'path')),
  interface: (card) => {
    const type = attribute(card, 'type');
    const source = find(card, 'source');
    const forwarded = findAll(card, 'portForward').flatMap((forward) =>
      findAll(forward, 'range').flatMap((range) => {
        const [start, end] = [attribute(range, 'start'), attribute(range, 'end')];
        if (start === null || attribute(range, 'exclude') === 'yes') return [];
        const ports = end === null || end === start ? `port ${start}` : `ports ${start}-${end}`;
        return [`${ports} (${attribute(forward, 'proto') ?? 'forwarded'}, forwarded)`];
      }),
    );
    const port = type === 'server' ? attribute(source, 'port') : attribute(find(source, 'local'), 'port');
    const bound = type === 'server' || type === 'udp' ? optional(port).map((each) => `port ${each} (${type})`) : [];
    const tap = optional(attribute(find(card, 'target'), 'dev')).map((name) => `the network interface ${name}`);
    const device = type === 'vdpa' ? optional(attribute(source, 'dev')) : [];
    const socket = type === 'vhostuser' ? optional(attribute(source, 'path')) : [];
    return [...tap, ...device, ...socket, ...bound, ...forwarded];
  },
};

/** Serial ports, consoles, channels and all else that speaks to a file, a port or a socket, and what they log into. */
function asChannel(device: XmlElement): readonly string[] {
  if (['disk', 'filesystem', 'interface', 'graphics', 'hostdev'].includes(device.name)) return [];
  const type = attribute(device, 'type') ?? '';
  // A random number generator has its source, and the type of it, one level down.
  const sources = [device, ...findAll(device, 'backend')].flatMap((each) => findAll(each, 'source'));
  const ends = sources.flatMap((source) => {
    const [path, service] = [attribute(source, 'path'), attribute(source, 'service')];
    const bound = attribute(source, 'mode') === 'bind';
    if (path !== null) return bound || ['file', 'pipe', 'dev'].includes(type) ? [path] : [];
    return bound && service !== null ? [`port ${service} (${device.name})`] : [];
  });
  return [...ends, ...optional(attribute(find(device, 'log'), 'file'))];
}

function optional(text: string | null): readonly string[] {
  return text === null ? [] : [text];
}
