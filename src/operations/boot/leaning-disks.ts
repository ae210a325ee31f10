import { hasBelow } from '../../libvirt/disk-above.js';
import { parseDomain } from '../../libvirt/domain-xml.js';
import { listDomains } from '../../libvirt/domain.js';
import type { Virsh } from '../../libvirt/virsh.js';
import type { DomainRecord } from './domain-record.js';
import { leansByHeader } from './stands-alone.js';

/** The XML of a domain that runs; null where it is off, or not defined. */
export async function liveXml(virsh: Virsh, uuid: string): Promise<string | null> {
  if (!(await listDomains(virsh)).some((each) => each.uuid === uuid)) return null;
  const xml = await virsh('dumpxml', [], { domain: uuid });
  return parseDomain(xml).active ? xml : null;
}

/** Disks that need the backup, by what QEMU has open as libvirt tells it, or by the header of their image. */
export async function leaningDomainDisks(virsh: Virsh, { domain, disks }: DomainRecord): Promise<readonly string[]> {
  const xml = await liveXml(virsh, domain.uuid);
  const leaning: string[] = [];
  for (const { disk, target, image } of disks) {
    if ((xml !== null && hasBelow(xml, target)) || (await leansByHeader(image))) leaning.push(disk);
  }
  return leaning;
}
