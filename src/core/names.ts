import type { Level } from './level.js';
import { xxh32 } from './xxh32.js';

/** Names that we give: disk folders, files, bitmaps and jobs; and what they tell when read back. */

const COMPONENT = /^[A-Za-z0-9_][A-Za-z0-9._+:@=-]{0,254}$/;

/** Whether a name of a disk or file is one plain path component: it cannot lead outside its folder. */
export function isComponent(name: string): boolean {
  return COMPONENT.test(name);
}

/** A name that is one safe path component, as the catalog demands. */
export function asComponent(name: string): string {
  const safe = name.replace(/[^A-Za-z0-9._+:@=-]/g, '_').slice(0, 120);
  return /^[A-Za-z0-9_]/.test(safe) ? safe : `_${safe}`;
}

/** What may not be in the name of a folder on some file system, or cannot be seen there. */
const UNSAFE_IN_FOLDER = /[/\\*?"<>|\p{C}\p{Zl}\p{Zp}]|[^\S ]|^[. -]|[. ]$/gu;
const LONGEST_NAME = 255;

/**
 * The name of a VM as that of its folder: letter by letter, in at most `limit` bytes. Where a part had to be replaced or cut,
 * the end tells it from other names of which the same is left.
 */
export function folderName(name: string, limit: number = LONGEST_NAME): string {
  const safe = name.replace(UNSAFE_IN_FOLDER, '_');
  const bytes = new TextEncoder();
  if (safe === name && name !== '' && bytes.encode(safe).length <= limit) return name;
  const end = `-${xxh32(bytes.encode(name)).toString(16).padStart(8, '0')}`;
  let kept = '';
  for (const letter of safe) {
    if (bytes.encode(kept + letter).length > limit - end.length) break;
    kept += letter;
  }
  return (kept === '' ? '_' : kept) + end;
}

/** `qmpbackup-<target id>-<disk id>-<random>`; the random part is drawn anew at every attempt. */
export function bitmapName(targetId: string, disk: string, random: string): string {
  return `qmpbackup-${targetId}-${disk}-${random}`;
}

/** On the disks of a libvirt domain a bitmap has the name of its checkpoint, which is the same on all of them. */
export function checkpointName(targetId: string, random: string): string {
  return `qmpbackup-${targetId}-${random}`;
}

/** Whether it is one of `checkpointName`: a bitmap of a disk has the disk's id in between. */
export function isCheckpointName(name: string): boolean {
  return /^qmpbackup-[0-9a-f]{16}-[0-9a-f]+$/.test(name);
}

/** Bitmaps made by us or by the Python tool of the same name. */
export function isOurBitmap(name: string): boolean {
  return name.startsWith('qmpbackup-');
}

export function jobId(attempt: string, disk: string): string {
  return `qmpbackup-${attempt}-${disk}`;
}

/** The one job of a libvirt domain. */
export function domainJobId(attempt: string): string {
  return jobId(attempt, 'domain');
}

/** Jobs of ours: whoever holds the VM's lock knows that no live run owns them, whichever target they served. */
export function isOurJob({ id, type }: { readonly id: string; readonly type: string }): boolean {
  return type === 'backup' && /^qmpbackup-[0-9a-f]{12}-/.test(id);
}

/** The node by which QEMU is asked whether it can write to a target; it is there for the length of two commands. */
export function probeNodeName(random: string): string {
  return `qmpbackup-probe-${random}`;
}

/** The parts that fleecing puts into QEMU for one disk. */
export type FleecePart = 'scratch' | 'filter' | 'snapshot';

/** What a node of ours is for. */
export type NodeRole = FleecePart | 'probe' | 'guard' | 'overlay';

const PART_TAGS: Readonly<Record<FleecePart, string>> = { scratch: 'tmp', filter: 'cbw', snapshot: 'snp' };
const FLEECE_NODE = /^qmpbackup-[0-9a-f]{12}-(tmp|cbw|snp)\d{1,4}$/;

/** QEMU takes 31 bytes at most, so the disk goes by its number in the run. */
export function fleeceNodeName(attempt: string, part: FleecePart, index: number): string {
  return `qmpbackup-${attempt}-${PART_TAGS[part]}${index}`;
}

/** The node that keeps the VM where it is while a run is under way; QEMU names it to whoever asks for a migration. */
export function guardNodeName(attempt: string): string {
  return `qmpbackup-${attempt}-here`;
}

/** Undefined for a node that is not ours. */
export function roleOfNode(name: string): NodeRole | undefined {
  if (/^qmpbackup-probe-[0-9a-f]{8}$/.test(name)) return 'probe';
  if (/^qmpbackup-[0-9a-f]{12}-here$/.test(name)) return 'guard';
  const tag = FLEECE_NODE.exec(name)?.[1];
  return (['scratch', 'filter', 'snapshot'] as const).find((part) => PART_TAGS[part] === tag);
}

/** Of one disk, read-only over NBD: its instant, or what its scratch image holds; name and id of the export. */
export function exportName(attempt: string, part: 'snapshot' | 'scratch', index: number): string {
  return `qmpbackup-${attempt}-${part === 'snapshot' ? 'nbd' : 'old'}${index}`;
}

export function isOurExport(id: string): boolean {
  return /^qmpbackup-[0-9a-f]{12}-(nbd|old)\d{1,4}$/.test(id);
}

/** The folder of one attempt's scratch images. */
export function scratchFolderName(attempt: string): string {
  return `qmpbackup-${attempt}.scratch`;
}

/** The attempt whose scratch folder a path leads through, or undefined where it leads through none. */
export function attemptOfScratch(path: string): string | undefined {
  return /\/qmpbackup-([0-9a-f]{12})\.scratch\//.exec(path)?.[1];
}

export function isScratchFolder(name: string): boolean {
  return /^qmpbackup-[0-9a-f]{12}\.scratch$/.test(name);
}

const LEVEL_NAMES: Readonly<Record<Level, string>> = { full: 'FULL', inc: 'INC', diff: 'DIFF', copy: 'COPY' };

export function pointFileName(level: Level, number: number): string {
  return `${LEVEL_NAMES[level]}-${number}.qcow2`;
}

/** Of a whole copy that becomes the increment `file`, and is never sealed itself. */
export function wholeFileName(file: string): string {
  return pointFileName('full', numberInName(file) ?? 0);
}

/** The folder in a target that holds the definitions of a libvirt domain. libvirt gives no disk such a name. */
export const DEFINITION_FOLDER = 'definition';

/** In a copy that is no point, and beside restored disks. */
export const MACHINE_FILE = 'machine.json';

/** Of a disk in a copy that is no point. */
export function rawFileName(disk: string): string {
  return `${disk}.raw`;
}

/** What else lies in a target where the folders of disks are. */
export const OTHERS_IN_TARGET = [
  DEFINITION_FOLDER,
  'catalog.json',
  'catalog-copy-1.json',
  'catalog-copy-2.json',
  'run.json',
  'verified.json',
] as const;

/** What is kept of a domain beside its disks; `live` is its XML as it ran. */
export type DefinitionKind = 'domain' | 'live' | 'checkpoint' | 'nvram' | 'tpm';

const DEFINITION_NAMES: Readonly<Record<DefinitionKind, (number: number, index: number) => string>> = {
  domain: (number) => `DOMAIN-${number}.xml`,
  live: (number) => `LIVE-${number}.xml`,
  checkpoint: (number) => `CHECKPOINT-${number}.xml`,
  nvram: (number) => `NVRAM-${number}.bin`,
  tpm: (number, index) => `TPM-${number}-${index}.bin`,
};

/** `index` tells the files of one kind apart. */
export function definitionFileName(kind: DefinitionKind, number: number, index: number): string {
  return DEFINITION_NAMES[kind](number, index);
}

export const PARTIAL_SUFFIX = '.partial';

/** Whether a path is that of an image that a run of ours is making. */
export function isImageInTheMaking(path: string): boolean {
  return /\/(?:FULL|INC|DIFF|COPY)-\d{1,15}\.qcow2\.partial$/.test(path);
}

/** The number in `FULL-1480542683.qcow2`, `INC-1480542683-disk1.qcow2`, `FULL-1480542683`; undefined for others. */
export function numberInName(file: string): number | undefined {
  const match = /^(?:FULL|INC|DIFF|COPY|DOMAIN|LIVE|CHECKPOINT|NVRAM|TPM)-(\d{1,15})(?:[.-]|$)/.exec(file);
  return match?.[1] === undefined ? undefined : Number(match[1]);
}

/** The number of the next file: now in unix seconds, but after every number of `files`. */
export function nextNumber(nowSeconds: number, files: readonly string[]): number {
  return files.reduce((next, file) => Math.max(next, (numberInName(file) ?? -1) + 1), nowSeconds);
}
