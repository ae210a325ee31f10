import type { Catalog } from './catalog.js';
import { knownDisks } from './chain.js';
import type { DiskNames, SourceDisk } from './disk.js';
import { asComponent, isCheckpointName, OTHERS_IN_TARGET } from './names.js';
import { type Point, recordedNames } from './point.js';

/**
 * Which disk of the catalog each block device is. A disk is recognised first by the bitmap it carries, then by the id
 * that a person gave it, then by what the catalog remembers of its device. Recorded names identify; they never address.
 */
export interface KnownSource {
  /** Names the disk's folder; chosen when the disk is first seen. */
  readonly id: string;
  readonly source: SourceDisk;
}

export function matchDisks(catalog: Catalog | undefined, sources: readonly SourceDisk[]): readonly KnownSource[] {
  const known = new Map([...knownDisks(catalog)].map(([id, entry]) => [id, recordedNames(entry.source)]));
  const ids = new Map<SourceDisk, string>();
  const assign = (source: SourceDisk, id: string): void => {
    ids.set(source, id);
    known.delete(id);
  };

  const carriers = sources.map((source) => ({ source, disks: disksByBitmap(catalog, source) }));
  // Where the bitmap is of several disks, only the file, or a person, says which of them this one is.
  for (const { source, disks } of carriers) {
    const isIt = (each: string): boolean => each === source.id || known.get(each)?.file === source.file;
    const id = disks.length > 1 ? disks.find(isIt) : undefined;
    if (id !== undefined) assign(source, id);
  }
  for (const [id, remembered] of [...known]) {
    const claimants = carriers.filter(({ source, disks }) => disks.includes(id) && !ids.has(source));
    // A cloned image carries its original's bitmap too: the device then says which of the two the disk is.
    const source =
      claimants.find((each) => each.source.id === id)?.source ??
      closest(
        claimants.map((each) => each.source),
        remembered,
      ) ??
      claimants.find(({ disks }) => disks.length === 1)?.source;
    if (source) assign(source, id);
  }
  for (const source of sources) {
    if (source.id !== undefined && !ids.has(source) && known.has(source.id)) assign(source, source.id);
  }
  for (const trait of TRAITS) {
    for (const source of sources) {
      if (ids.has(source)) continue;
      const match = [...known].find(([, remembered]) => trait(source) !== null && trait(source) === trait(remembered));
      if (match) assign(source, match[0]);
    }
  }

  const taken = new Set([...knownDisks(catalog).keys(), ...OTHERS_IN_TARGET].map(foldCase));
  const shared = sharedNames(catalog);
  return sources.map((source) => {
    let id = ids.get(source);
    if (id === undefined) {
      id = unused(newDiskId(source), taken);
      taken.add(foldCase(id));
    }
    return { id, source: withProvenBitmaps(catalog, shared, id, source) };
  });
}

/**
 * On all disks of a libvirt domain the bitmap of one checkpoint has one name. So there it proves nothing: it counts only
 * where this file, or one below it, is known as that disk's. Another image under the disk's name would get a wrong parent.
 */
function withProvenBitmaps(
  catalog: Catalog | undefined,
  shared: ReadonlySet<string>,
  id: string,
  source: SourceDisk,
): SourceDisk {
  if (!source.bitmaps.some(({ name }) => shared.has(name))) return source;
  const entries = catalog?.points.flatMap(({ disks }) => disks.filter(({ disk }) => disk === id)) ?? [];
  const files = new Set(entries.map((entry) => entry.source.file));
  if ([source.file, ...(source.backing ?? [])].some((file) => files.has(file))) return source;
  return { ...source, bitmaps: source.bitmaps.filter(({ name }) => !shared.has(name)) };
}

/** Names of bitmaps that a point has put on more than one disk. */
function sharedNames(catalog: Catalog | undefined): ReadonlySet<string> {
  const shared = new Set<string>();
  for (const point of catalog?.points ?? []) {
    for (const { bitmap } of point.disks) {
      if (bitmap !== null && !shared.has(bitmap.name) && carriersOf(point, bitmap.name).length > 1) {
        shared.add(bitmap.name);
      }
    }
  }
  return shared;
}

/** Disks that a point has put this bitmap on: the checkpoint of a domain is on those, too, whose copies failed. */
function carriersOf({ disks, lacks }: Point, name: string): readonly string[] {
  const recorded = disks.filter(({ bitmap }) => bitmap?.name === name).map(({ disk }) => disk);
  if (!isCheckpointName(name)) return recorded;
  return [...recorded, ...(lacks ?? []).flatMap(({ disk, kind }) => (kind === 'failed' ? [disk] : []))];
}

/** What a device is recognised by when no bitmap tells, the strongest first. */
const TRAITS: readonly ((of: DiskNames) => string | null)[] = [
  (of) => (of.qdev === null || isAnonymousDevice(of.qdev) ? null : of.qdev),
  (of) => of.device,
  (of) => explicitNode(of.address),
  (of) => of.file,
];

function closest(claimants: readonly SourceDisk[], remembered: DiskNames): SourceDisk | undefined {
  for (const trait of TRAITS) {
    const match = claimants.find((source) => trait(source) !== null && trait(source) === trait(remembered));
    if (match) return match;
  }
  return undefined;
}

/**
 * The disk whose file recorded a bitmap that `source` carries; several where one name is of several disks. A clone has
 * older ones of its original beside its own.
 */
function disksByBitmap(catalog: Catalog | undefined, source: SourceDisk): readonly string[] {
  const carried = new Set(source.bitmaps.map(({ name }) => name));
  for (const point of catalog?.points.toReversed() ?? []) {
    const entry = point.disks.find(({ bitmap }) => bitmap !== null && carried.has(bitmap.name));
    if (entry?.bitmap) return carriersOf(point, entry.bitmap.name);
  }
  return [];
}

/** Device name, else an explicit node name, else the id of the guest device, else the image's file name. */
export function newDiskId(source: SourceDisk): string {
  const node = explicitNode(source.address);
  const guestDevice = source.qdev === null ? null : guestDeviceId(source.qdev);
  return asComponent(source.id ?? source.device ?? node ?? guestDevice ?? baseName(source.file));
}

/** Whether the disk has a name that stays when its image or the command line changes around it. */
export function hasStableId({ device, address, qdev }: SourceDisk): boolean {
  return (device ?? explicitNode(address) ?? (qdev === null ? null : guestDeviceId(qdev))) !== null;
}

/** A node name that somebody chose: QEMU makes up names that begin with `#block`. */
export function explicitNode(node: string | null): string | null {
  return node === null || node.startsWith('#') ? null : node;
}

function guestDeviceId(qdev: string): string | null {
  if (!qdev.startsWith('/')) return qdev;
  return /^\/machine\/peripheral\/([^/]+)/.exec(qdev)?.[1] ?? null;
}

/** Paths that QEMU numbers by order of creation: another command line gives them to another device. */
function isAnonymousDevice(qdev: string): boolean {
  return qdev.startsWith('/machine/peripheral-anon/') || qdev.startsWith('/machine/unattached/');
}

function baseName(file: string): string {
  const text = file.startsWith('json:') ? (/"filename": ?"([^"]+)"/.exec(file)?.[1] ?? 'disk') : file;
  return text.split('/').findLast((part) => part !== '') ?? 'disk';
}

function unused(wanted: string, taken: ReadonlySet<string>): string {
  if (!taken.has(foldCase(wanted))) return wanted;
  for (let number = 2; ; number += 1) if (!taken.has(foldCase(`${wanted}-${number}`))) return `${wanted}-${number}`;
}

/** Names that are one to the file systems of other systems, on which a target may lie. */
function foldCase(id: string): string {
  return id.toLowerCase();
}
