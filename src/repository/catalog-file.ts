import { readFile, rename, rm } from 'node:fs/promises';
import { type Catalog, catalogText, readCatalogText, readCatalogValue, schemaOf } from '../core/catalog.js';
import { QmpBackupError } from '../errors.js';
import { replaceFile } from '../host/durable.js';
import { isThere } from '../host/is-there.js';
import { codeOf } from '../host/file-errors.js';
import { ownerFor } from '../host/ownership.js';
import { readParsed } from '../host/plain-file.js';
import { withLinksAsTheyAre } from './links-as-they-are.js';
import { CATALOG_COPIES, type CatalogCopy, catalogCopyPath, catalogPath } from './layout.js';

/** `catalog.json` on disk: what is read is checked as if a stranger had written it; what is written is durable. */

/** Tens of thousands of points; more would not be a catalog. Bytes. */
const LIMIT = 256 * 1024 * 1024;

const DAMAGED_HINT =
  'The backup files themselves may be whole. Put back a copy of the catalog, or move the folder away and start a new target.';

/** Was written by a later version, and is as good as any. */
export class NewerCatalog extends QmpBackupError {}

/** There is none, and its copy says that there was. */
export class LostCatalog extends QmpBackupError {}

/**
 * The catalog of a target, or undefined when there is none.
 *
 * @throws QmpBackupError `unsafe` for a catalog that is damaged, hostile, a link, of a newer version, or lost
 */
export async function readCatalog(target: string): Promise<Catalog | undefined> {
  const path = catalogPath(target);
  const catalog = await readAt(path);
  // A run that took the folder for a new target would begin a catalog of its own beside the files of the old one.
  if (catalog) return withLinksAsTheyAre(target, catalog);
  if (!(await hasCopy(target))) return undefined;
  throw new LostCatalog('unsafe', `${path} is missing, and its copy is there`, { hint: FROM_COPY });
}

const FROM_COPY = 'Take the catalog from its copy: qmpbackup verify --repair --target DIR';

async function readAt(path: string): Promise<Catalog | undefined> {
  const reading = await readParsed(path, LIMIT, DAMAGED_HINT, readCatalogText);
  if (reading === undefined) return undefined;
  if (reading.ok) return reading.catalog;
  if (reading.newer) {
    throw new NewerCatalog('unsafe', `${path} was written by a newer qmpbackup: ${reading.why}`, {
      hint: 'Use that version, or another --target.',
    });
  }
  throw new QmpBackupError('unsafe', `${path} is damaged or was tampered with: ${reading.why}`, { hint: DAMAGED_HINT });
}

async function hasCopy(target: string): Promise<boolean> {
  const there = await Promise.all(CATALOG_COPIES.map((copy) => isThere(catalogCopyPath(target, copy))));
  return there.includes(true);
}

/** @throws QmpBackupError `no-catalog` when there is none; else as `readCatalog` */
export async function requireCatalog(target: string): Promise<Catalog> {
  const catalog = await readCatalog(target);
  if (catalog) return catalog;
  throw new QmpBackupError('no-catalog', `there is no backup in ${target}: it has no catalog.json`, {
    hint: await whereElse(target),
  });
}

/** A folder above targets is easily given for one: with `--monthly` it is what a backup is given. */
async function whereElse(target: string): Promise<string> {
  // Few runs look.
  const { targetsIn } = await import('./targets-below.js');
  const { targets } = await targetsIn(target);
  const months = 'a target made with --monthly is the folder of one month, <target>/<vm name>/<YYYY-MM>';
  if (targets.length === 0) return `Check the path; ${months}.`;
  const names = targets.slice(-MOST_NAMED).join(', ');
  const more = targets.length > MOST_NAMED ? `, and ${targets.length - MOST_NAMED} more` : '';
  return `Name one of the targets below it: ${names}${more}. With --monthly each month is one.`;
}

/** The last ones: of months the newest. */
const MOST_NAMED = 3;

/**
 * Replaces the catalog; the rename in it is the commit point of a backup. After an error, what counts is what
 * `readCatalog` then says. Its copy is kept afterwards, by `keepCatalogCopy`.
 *
 * @throws QmpBackupError `failed` when `catalog` could not be read back; else as `replaceFile`
 */
export async function replaceCatalog(target: string, catalog: Catalog): Promise<void> {
  const path = catalogPath(target);
  const checked = readCatalogValue({ ...catalog, schema: schemaOf(catalog) });
  if (!checked.ok) throw new QmpBackupError('failed', `refused to write a wrong catalog to ${path}: ${checked.why}`);
  await replaceFile(path, catalogText(checked.catalog), { mode: 0o600, owner: await ownerFor(target) });
}

/** As `replaceCatalog`, its copy included. */
export async function writeCatalog(target: string, catalog: Catalog): Promise<void> {
  await replaceCatalog(target, catalog);
  await keepCatalogCopy(target);
}

/**
 * Keeps the catalog as it is now, and the copy before that, in files of their own, for what happens to one shall not happen to
 * all. What counts is written: a copy that cannot be kept fails nothing, and the one before it is as it was.
 * Resolves to whether it could.
 */
export async function keepCatalogCopy(target: string): Promise<boolean> {
  const [copy, before] = [catalogCopyPath(target, 1), catalogCopyPath(target, 2)];
  try {
    const content = await readFile(catalogPath(target));
    await rename(copy, before).catch((error: unknown) => {
      if (codeOf(error) !== 'ENOENT') throw error;
    });
    await replaceFile(copy, content, { mode: 0o600, owner: await ownerFor(target) });
    return true;
  } catch (error) {
    if (!(error instanceof QmpBackupError) && codeOf(error) === undefined) throw error;
    return false;
  }
}

/** For who knows that the catalog itself is whole. One that cannot be removed is as it was, and fails nothing. */
export async function removeCatalogCopies(target: string, copies: readonly CatalogCopy[]): Promise<void> {
  for (const copy of copies) {
    try {
      await rm(catalogCopyPath(target, copy), { force: true });
    } catch (error) {
      if (codeOf(error) === undefined) throw error;
    }
  }
}

/** Puts a copy in the place of the catalog. It is a copy of it again, too. */
export async function takeCatalogFromCopy(target: string, catalog: Catalog): Promise<void> {
  const [text, how] = [catalogText(catalog), { mode: 0o600, owner: await ownerFor(target) }];
  await replaceFile(catalogPath(target), text, how);
  await replaceFile(catalogCopyPath(target, 1), text, how);
}

/** The copies that can be used, the newest first. */
export async function readCatalogCopies(target: string): Promise<readonly Catalog[]> {
  const copies = await Promise.all(CATALOG_COPIES.map((copy) => readCopy(catalogCopyPath(target, copy))));
  return copies.filter((each) => each !== undefined);
}

async function readCopy(path: string): Promise<Catalog | undefined> {
  try {
    return await readAt(path);
  } catch (error) {
    if (error instanceof QmpBackupError) return undefined;
    throw error;
  }
}
