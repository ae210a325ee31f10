/** Devices of a domain on which its guest keeps data, or may, and that are no `<disk>`. */
import type { LeftOut } from '../core/disk.js';
import { COMMANDS_OF_ITS_OWN, memoryDisk, SERVED_SCSI } from '../core/guest-devices.js';
import { attribute, find, findAll, textAt, type XmlElement } from './xml.js';

/** Named by what stays the same while the domain is off, when nothing has an alias. */
export function unlistedIn(domain: XmlElement): readonly LeftOut[] {
  const devices = find(domain, 'devices');
  const shared = attribute(find(domain, 'memoryBacking', 'access'), 'mode') === 'shared';
  return [
    ...findAll(devices, 'hostdev').flatMap(scsiDevice),
    ...findAll(devices, 'memory').flatMap((memory) => persistentMemory(memory, shared)),
  ];
}

function scsiDevice(hostdev: XmlElement): LeftOut[] {
  const type = attribute(hostdev, 'type');
  const source = find(hostdev, 'source');
  if (type === 'scsi_host') return [{ name: attribute(source, 'wwpn') ?? type, ...SERVED_SCSI }];
  if (type !== 'scsi' || find(hostdev, 'readonly')) return [];
  const [adapter, address] = [find(source, 'adapter'), find(source, 'address')];
  const unit = ['bus', 'target', 'unit'].map((part) => attribute(address, part)).join(':');
  const name = attribute(source, 'name') ?? `${attribute(adapter, 'name') ?? type}:${unit}`;
  return [{ name, ...COMMANDS_OF_ITS_OWN }];
}

/** libvirt 9.0: of a domain whose memory is shared so is that of an NVDIMM; virtio-pmem always is; else what is written stays in memory. */
function persistentMemory(memory: XmlElement, shared: boolean): LeftOut[] {
  const model = attribute(memory, 'model');
  const path = textAt(memory, 'source', 'path');
  if ((model !== 'nvdimm' && model !== 'virtio-pmem') || path === null || find(memory, 'target', 'readonly')) return [];
  const access = attribute(memory, 'access') ?? (shared || model === 'virtio-pmem' ? 'shared' : 'private');
  return access === 'shared' ? [{ name: path, ...memoryDisk(path) }] : [];
}

/** They may be disks, network cards, anything. */
export function passedThroughIn(devices: XmlElement | undefined): readonly string[] {
  return findAll(devices, 'hostdev').flatMap((hostdev) => {
    const type = attribute(hostdev, 'type');
    const source = find(hostdev, 'source');
    const address = find(source, 'address');
    const digits = (part: string): string => (attribute(address, part) ?? '').replace('0x', '');
    if (type === 'pci') {
      const place = `${digits('domain').padStart(4, '0')}:${digits('bus').padStart(2, '0')}:${digits('slot').padStart(2, '0')}`;
      return [`pci ${place}.${digits('function') || '0'}`];
    }
    if (type !== 'usb') return [];
    const [vendor, product] = ['vendor', 'product'].map((part) =>
      attribute(find(source, part), 'id')?.replace('0x', ''),
    );
    return [vendor !== undefined ? `usb ${vendor}:${product ?? ''}` : `usb ${digits('bus')}.${digits('device')}`];
  });
}
