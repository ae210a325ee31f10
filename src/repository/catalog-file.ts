import { type Catalog, readCatalogValue } from '../core/catalog.js';
import { QmpBackupError } from '../errors.js';
import { replaceFile } from '../host/durable.js';
import { ownerFor } from '../host/ownership.js';
import { readJsonFile } from '../host/plain-file.js';
import { catalogPath } from './layout.js';

/** `catalog.json` on disk: what is read is checked as if a stranger had written it; what is written is durable. */

/** Tens of thousands of points; more would not be a catalog. Bytes. */
const LIMIT = 256 * 1024 * 1024;

const DAMAGED_HINT =
  'The backup files themselves may be whole. Put back a copy of the catalog, or move the folder away and start a new target.';

/**
 * The catalog of a target, or undefined when there is none.
 *
 * @throws QmpBackupError `unsafe` for a catalog that is damaged, hostile, a link, or of a newer version
 */
export async function readCatalog(target: string): Promise<Catalog | undefined> {
  const path = catalogPath(target);
  const value = await readJsonFile(path, LIMIT, DAMAGED_HINT);
  if (value === undefined) return undefined;
  const reading = readCatalogValue(value);
  if (reading.ok) return reading.catalog;
  if (reading.newer) {
    throw new QmpBackupError('unsafe', `${path} was written by a newer qmpbackup: ${reading.why}`, {
      hint: 'Use that version, or another --target.',
    });
  }
  throw new QmpBackupError('unsafe', `${path} is damaged or was tampered with: ${reading.why}`, { hint: DAMAGED_HINT });
}

/** @throws QmpBackupError `no-catalog` when there is none; else as `readCatalog` */
export async function requireCatalog(target: string): Promise<Catalog> {
  const catalog = await readCatalog(target);
  if (catalog) return catalog;
  throw new QmpBackupError('no-catalog', `there is no backup in ${target}: it has no catalog.json`, {
    hint: 'Check the path; a target made with --monthly is the folder of one month, <target>/<vm name>/<YYYY-MM>.',
  });
}

/**
 * Replaces the catalog; the rename in it is the commit point of a backup. After an error, what counts is what
 * `readCatalog` then says.
 *
 * @throws QmpBackupError `failed` when `catalog` could not be read back; else as `replaceFile`
 */
export async function writeCatalog(target: string, catalog: Catalog): Promise<void> {
  const path = catalogPath(target);
  const checked = readCatalogValue(catalog);
  if (!checked.ok) throw new QmpBackupError('failed', `refused to write a wrong catalog to ${path}: ${checked.why}`);
  await replaceFile(path, textOf(checked.catalog), {
    mode: 0o600,
    owner: await ownerFor(target),
  });
}

/** A line for each point: quick to write at any length, and `diff` shows what a run added. */
function textOf({ points, ...rest }: Catalog): string {
  const lines = points.map((point) => JSON.stringify(point)).join(',\n');
  return `${JSON.stringify(rest).slice(0, -1)},"points":[\n${lines}\n]}\n`;
}
