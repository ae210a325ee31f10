/** A disk whose image is above an NBD export, in the definition of its domain. */
import { append, editChildren, element, removeChildren, writeXml } from './xml-edit.js';
import { attribute, find, findAll, parseXml, type XmlElement } from './xml.js';

/** On a unix socket. */
export interface DiskExport {
  /** Absolute path. */
  readonly socket: string;
  readonly name: string;
}

/** Null: its image has nothing below. Said by the definition, so that libvirt follows no link of a header. */
export function aboveExport(disk: XmlElement, below: DiskExport | null): XmlElement {
  const rest = removeChildren(disk, ['backingStore']);
  if (below === null) return append(rest, [element('backingStore', {})]);
  const host = element('host', { transport: 'unix', socket: below.socket });
  const source = append(element('source', { protocol: 'nbd', name: below.name }), [host]);
  const parts = [element('format', { type: 'raw' }), source, element('backingStore', {})];
  return append(rest, [append(element('backingStore', { type: 'network' }), parts)]);
}

/** Whether, by this definition, the disk of a target has something below its image; null where there is no such disk. */
export function hasBelow(xml: string, target: string): boolean | null {
  const disk = disksOf(xml).find((each) => targetOf(each) === target);
  return disk ? find(disk, 'backingStore', 'source') !== undefined : null;
}

export interface DiskAbove {
  readonly image: string;
  readonly below: DiskExport | null;
}

/**
 * The definition with what is below the images of these disks, by target. `others`: targets whose disk it does not have, or
 * not with that image.
 */
export function withBelow(
  xml: string,
  disks: ReadonlyMap<string, DiskAbove>,
): { readonly xml: string; readonly changed: boolean; readonly others: readonly string[] } {
  const domain = parseXml(xml, 'domain');
  const seen = new Set<string>();
  const edited = editChildren(domain, (devices) =>
    devices.name !== 'devices'
      ? devices
      : editChildren(devices, (disk) => {
          const known = disk.name === 'disk' ? disks.get(targetOf(disk)) : undefined;
          if (!known || attribute(find(disk, 'source'), 'file') !== known.image) return disk;
          seen.add(targetOf(disk));
          return isAbove(disk, known.below) ? disk : aboveExport(disk, known.below);
        }),
  );
  const text = writeXml(edited);
  const others = [...disks.keys()].filter((target) => !seen.has(target));
  return { xml: text, changed: text !== writeXml(domain), others };
}

function isAbove(disk: XmlElement, below: DiskExport | null): boolean {
  const source = find(disk, 'backingStore', 'source');
  if (below === null || !source)
    return below === null && source === undefined && find(disk, 'backingStore') !== undefined;
  return attribute(find(source, 'host'), 'socket') === below.socket && attribute(source, 'name') === below.name;
}

function disksOf(xml: string): readonly XmlElement[] {
  return findAll(find(parseXml(xml, 'domain'), 'devices'), 'disk');
}

function targetOf(disk: XmlElement): string {
  return attribute(find(disk, 'target'), 'dev') ?? '';
}
