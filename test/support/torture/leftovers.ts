import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { QmpClient } from '../../../src/qmp/client.js';
import { straysOf } from '../target-files.js';

/** What a run that ended by itself, or the run after one that was killed, may not leave behind in QEMU and on disk. */
export interface NodeRow {
  readonly 'node-name': string;
  readonly drv: string;
  readonly file: string;
  readonly 'dirty-bitmaps'?: readonly {
    readonly name?: string;
    readonly inconsistent?: boolean;
    readonly busy?: boolean;
  }[];
}

export async function blockNodes(control: QmpClient): Promise<readonly NodeRow[]> {
  return (await control.execute('query-named-block-nodes', { flat: true })) as NodeRow[];
}

export interface Expected {
  readonly control: QmpClient;
  readonly target: string;
  /** As `query-status` must say it. */
  readonly status: string;
}

/** Throws unless QEMU has no job, node or filter of ours, the target no file of a run, and the VM runs as before. */
export async function expectNothingLeft({ control, target, status }: Expected): Promise<void> {
  const jobs = (await control.execute('query-jobs')) as { id: string }[];
  const ours = jobs.filter(({ id }) => !id.startsWith('foreign-'));
  if (ours.length > 0) throw new Error(`jobs are left: ${JSON.stringify(ours)}`);
  const nodes = (await blockNodes(control)).filter(({ 'node-name': name, drv, file }) => {
    return name.startsWith('qmpbackup') || FLEECING.includes(drv) || file.includes(target);
  });
  if (nodes.length > 0) {
    throw new Error(`nodes are left: ${nodes.map(({ 'node-name': name, file }) => `${name} (${file})`).join(', ')}`);
  }
  const files = await strayFiles(target);
  if (files.length > 0) throw new Error(`files are left: ${files.join(', ')}`);
  const now = (await control.execute('query-status')) as { status: string };
  if (now.status !== status) throw new Error(`the VM is ${now.status}, not ${status}`);
}

const FLEECING = ['copy-before-write', 'snapshot-access'];

/** Of a target: what no run that has ended may leave, and images that the catalog neither names nor is about to remove. */
export async function strayFiles(target: string): Promise<readonly string[]> {
  const files = await readdir(target, { recursive: true }).catch(() => []);
  const catalog = await readCatalogOf(target);
  const retired = (catalog?.retiredFiles ?? []).map(({ folder, file }) => `${folder}/${file}`);
  const named = (catalog?.points ?? []).flatMap(({ disks }) => disks.map(({ disk, file }) => `${disk}/${file}`));
  const known = new Set([...named, ...retired]);
  const unnamed = files.filter((file) => file.endsWith('.qcow2') && !known.has(file));
  return [...straysOf(files), ...files.filter((file) => /scratch|fleece/.test(file)), ...unnamed];
}

/** The part of a catalog that the tests read, in words of their own: what checks the tool must not share its faults. */
export interface CatalogPoint {
  readonly id: string;
  readonly chain: string | null;
  /** ISO 8601. */
  readonly createdAt: string;
  readonly pinned?: true;
  readonly disks: readonly CatalogEntry[];
}

export interface CatalogParts {
  readonly targetId: string;
  readonly points: readonly CatalogPoint[];
  readonly retiredFiles?: readonly { readonly folder: string; readonly file: string }[];
}

export interface CatalogEntry {
  readonly disk: string;
  readonly level: string;
  readonly compared?: boolean;
  readonly file: string;
  readonly bitmap: { readonly name: string } | null;
  readonly source: { readonly qdev: string | null };
}

/** Undefined where there is none yet. */
export async function readCatalogOf(target: string): Promise<CatalogParts | undefined> {
  const text = await readFile(join(target, 'catalog.json'), 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  return text === undefined ? undefined : (JSON.parse(text) as CatalogParts);
}

/** The bitmaps that a disk goes on needing: that of its newest file and that of its newest FULL. */
export function neededBitmaps(
  points: readonly CatalogPoint[],
  isOfDisk: (entry: CatalogEntry) => boolean,
): readonly string[] {
  const entries = points.filter(({ chain }) => chain !== null).flatMap(({ disks }) => disks.filter(isOfDisk));
  return [entries.at(-1), entries.findLast(({ level }) => level === 'full')].flatMap((entry) =>
    entry?.bitmap ? [entry.bitmap.name] : [],
  );
}
