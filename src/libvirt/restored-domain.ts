/**
 * The definition of a domain whose disks were restored to other places: what libvirt is given to define. Everything that
 * is not about these places, or about being another domain, stays as it was.
 */
import { sharedThings } from './shared-things.js';
import { OVERLAY_RECORDS } from './overlay-records.js';
import { aboveExport, type DiskExport } from './disk-above.js';
import {
  append,
  editAt,
  editChildren,
  element,
  removeChildren,
  withAttributes,
  withText,
  writeXml,
} from './xml-edit.js';
import { attribute, find, findAll, parseXml, type XmlElement } from './xml.js';

export interface RecordedDomain {
  /** `virsh dumpxml --inactive`. */
  readonly inactive: string;
  /** `virsh dumpxml` of the domain as it ran; it may have disks that were plugged in for that run only. */
  readonly live: string | null;
}

export interface RestoredDomain {
  readonly name: string;
  /** The UUID of a domain beside the original, which then shares nothing with it; null is the original itself. */
  readonly newUuid: string | null;
  /** Each restored image by the disk's target. */
  readonly disks: ReadonlyMap<string, RestoredImage>;
  /** Absolute path of the restored UEFI variables. */
  readonly nvram: string | null;
  /** Those of the files and devices in `mediaOf` that are there. */
  readonly media: ReadonlySet<string>;
  /** Without any link to a network. */
  readonly unlinked?: boolean | undefined;
}

export interface RestoredImage {
  /** Absolute. */
  readonly path: string;
  readonly format: 'qcow2' | 'raw';
  readonly isDevice: boolean;
  /** What it is above: null is nothing, undefined what its header says. */
  readonly below?: DiskExport | null | undefined;
}

export interface RestoredDefinition {
  readonly xml: string;
  /** What is different from the recorded domain beside the places, for people. */
  readonly notes: readonly string[];
}

/** Files and devices that the guest can only read: a definition can go on naming those that are there. */
export function mediaOf(xml: string): readonly string[] {
  const disks = findAll(find(parseXml(xml, 'domain'), 'devices'), 'disk');
  return disks.flatMap((disk) => (isReadOnly(disk) ? (sourcePath(disk) ?? []) : []));
}

/** @throws LibvirtAnswerError for text that is no domain */
export function restoredDomain(recorded: RecordedDomain, restored: RestoredDomain): RestoredDefinition {
  const notes: string[] = [];
  let domain = parseXml(recorded.inactive, 'domain');
  domain = editAt(domain, ['name'], (name) => withText(name, restored.name));
  // A generation id tells the guest that it was put back: libvirt makes a new one of an empty one.
  domain = editAt(domain, ['genid'], (genid) => withText(genid, ''));
  // The overlays were those of the disks that it had.
  domain = editAt(domain, ['metadata', OVERLAY_RECORDS], () => null);
  domain = editAt(domain, ['devices'], (devices) => withDisks(devices, recorded, restored, notes));
  domain = withNvram(domain, restored, notes);
  if (restored.newUuid !== null) domain = asAnotherDomain(domain, restored.newUuid, notes);
  if (restored.unlinked) domain = withoutLinks(domain, notes);
  return { xml: writeXml(domain), notes };
}

// --- disks -----------------------------------------------------------------------------------------------------------

function withDisks(
  devices: XmlElement,
  { live }: RecordedDomain,
  { disks, media }: RestoredDomain,
  notes: string[],
): XmlElement {
  const defined = new Set(findAll(devices, 'disk').map(targetOf));
  const edited = editChildren(devices, (child) => {
    if (child.name !== 'disk') return child;
    const target = targetOf(child);
    const image = disks.get(target);
    return image === undefined ? withoutImage(child, target, media, notes) : withImage(child, image);
  });
  const running = live === null ? [] : findAll(find(parseXml(live, 'domain'), 'devices'), 'disk');
  const plugged = [...disks].flatMap(([target, image]): XmlElement[] => {
    if (defined.has(target)) return [];
    const disk = running.find((each) => targetOf(each) === target);
    if (disk === undefined) {
      notes.push(`${target} was restored and is not in the definition: the domain was not defined with it`);
      return [];
    }
    notes.push(`${target} was plugged in only until the domain would end; here it is defined`);
    return [withImage(removeChildren(disk, ['alias', 'address', 'boot']), image)];
  });
  return append(edited, plugged);
}

/** What names or opens the old image goes; how the guest sees the disk stays. */
function withImage(disk: XmlElement, image: RestoredImage): XmlElement {
  const { path, format, isDevice, below } = image;
  const kept = removeChildren(disk, ['backingStore', 'mirror', 'auth', 'encryption']);
  const source = element('source', isDevice ? { dev: path } : { file: path });
  const placed = find(kept, 'source') ? editAt(kept, ['source'], () => source) : append(kept, [source]);
  const driver = (old: XmlElement): XmlElement => withAttributes(old, { type: format });
  const driven = find(placed, 'driver')
    ? editAt(placed, ['driver'], driver)
    : append(placed, [element('driver', { name: 'qemu', type: format })]);
  const typed = withAttributes(driven, { type: isDevice ? 'block' : 'file' });
  return below === undefined ? typed : aboveExport(typed, below);
}

/**
 * A disk that was not restored. The image that it names is the original domain's: one that the guest could write to
 * must not be in another definition, and one that is put back must not run on a disk of another time.
 */
function withoutImage(
  disk: XmlElement,
  target: string,
  media: ReadonlySet<string>,
  notes: string[],
): XmlElement | null {
  const removable = ['cdrom', 'floppy'].includes(attribute(disk, 'device') ?? 'disk');
  const path = sourcePath(disk);
  if (find(disk, 'source') === undefined && removable) return disk;
  if (isReadOnly(disk) && (path === null || media.has(path))) return disk;
  if (!removable) {
    notes.push(`${target} is left out of the definition: it was not restored (its image was ${path ?? 'no file'})`);
    return null;
  }
  notes.push(`${target} has no medium now: it was ${path ?? 'no file'}`);
  return withAttributes(removeChildren(disk, ['source', 'backingStore', 'mirror', 'auth']), { type: 'file' });
}

function targetOf(disk: XmlElement): string {
  return attribute(find(disk, 'target'), 'dev') ?? '';
}

function isReadOnly(disk: XmlElement): boolean {
  return attribute(disk, 'device') === 'cdrom' || find(disk, 'readonly') !== undefined;
}

function sourcePath(disk: XmlElement): string | null {
  const source = find(disk, 'source');
  return attribute(source, 'file') ?? attribute(source, 'dev');
}

// --- UEFI variables --------------------------------------------------------------------------------------------------

function withNvram(domain: XmlElement, { nvram: path, newUuid }: RestoredDomain, notes: string[]): XmlElement {
  const nvram = find(domain, 'os', 'nvram');
  if (path !== null) {
    if (nvram) return editAt(domain, ['os', 'nvram'], (old) => nvramAt(old, path));
    return editAt(domain, ['os'], (os) => append(os, [element('nvram', {}, path)]));
  }
  if (!nvram || newUuid === null || (nvram.text === '' && !find(nvram, 'source'))) return domain;
  notes.push('its UEFI variables are not in the point: it starts with new ones, made from the template');
  return editAt(domain, ['os', 'nvram'], (old) => withAttributes(withText(old, ''), { type: null }));
}

function nvramAt(nvram: XmlElement, path: string): XmlElement {
  const source = find(nvram, 'source');
  if (!source) return withText(nvram, path);
  return withAttributes(
    editAt(nvram, ['source'], () => element('source', { file: path })),
    { type: 'file' },
  );
}

// --- beside the original ---------------------------------------------------------------------------------------------

/** libvirt refuses a domain whose firmware tables tell another UUID. */
export function withUuid(domain: XmlElement, uuid: string): XmlElement {
  return editAt(
    editAt(domain, ['uuid'], (old) => withText(old, uuid)),
    ['sysinfo', 'system', 'entry'],
    (entry) => (attribute(entry, 'name') === 'uuid' ? withText(entry, uuid) : entry),
  );
}

function asAnotherDomain(original: XmlElement, uuid: string, notes: string[]): XmlElement {
  let domain = withUuid(original, uuid);
  // libvirt draws new addresses for interfaces without one.
  domain = editAt(domain, ['devices', 'interface', 'mac'], () => null);
  // The default place of the state is named by the UUID.
  domain = editAt(domain, ['devices', 'tpm', 'backend', 'source'], () => null);
  for (const thing of sharedThings(domain)) {
    notes.push(`${thing} is in both definitions: the two domains may not run side by side with it`);
  }
  return domain;
}

// --- without a network -----------------------------------------------------------------------------------------------

/** Cards whose link QEMU does not hold, and what else may be one. */
const UNHELD_CARDS = ['hostdev', 'vdpa', 'vhostuser'];

/**
 * The cards stay, so that the guest knows them again, and their links are down: whoever starts the domain puts them up. What
 * cannot be had without its link is left out.
 */
function withoutLinks(original: XmlElement, notes: string[]): XmlElement {
  const left = (what: string): null => {
    notes.push(`${what} is left out, for it may be a link to a network`);
    return null;
  };
  const domain = editAt(original, ['devices'], (devices) =>
    editChildren(devices, (device) => {
      if (device.name === 'hostdev') return left('a device of the host');
      if (device.name !== 'interface') return device;
      const type = attribute(device, 'type') ?? '';
      return UNHELD_CARDS.includes(type) ? left(`a network card of type ${type}`) : linkDown(device);
    }),
  );
  return editChildren(domain, (child) =>
    child.name === 'qemu:commandline' ? left('what QEMU was given by arguments of its own') : child,
  );
}

function linkDown(card: XmlElement): XmlElement {
  return append(removeChildren(card, ['link']), [element('link', { state: 'down' })]);
}
