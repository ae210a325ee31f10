import { readdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { isComponent, PARTIAL_SUFFIX } from '../core/names.js';
import { QmpBackupError } from '../errors.js';
import { codeOf, fileError, isCausedBy } from '../host/file-errors.js';
import { isThere } from '../host/is-there.js';

/** Every path rule of a target folder. No name of a disk or file that is given here can lead outside the target. */

export const CATALOG_NAME = 'catalog.json';
export const JOURNAL_NAME = 'run.json';
export const VERIFIED_NAME = 'verified.json';
export const LOCK_NAME = '.lock';

/** Of a mark that files of the target are open. */
export function openMarkName(id: string): string {
  return `open-${id}.json`;
}

/** Whether a file in a target is such a mark. */
export function isOpenMark(name: string): boolean {
  return /^open-[0-9a-f]{16}\.json$/.test(name);
}

/** One that its writer died over. */
export function isUnfinishedMark(name: string): boolean {
  return /^open-[0-9a-f]{16}\.json\.tmp$/.test(name);
}

export function catalogPath(target: string): string {
  return join(target, CATALOG_NAME);
}

/** Copies of the catalog: 1 of what it is, 2 of what it was before. */
export const CATALOG_COPIES = [1, 2] as const;
export type CatalogCopy = (typeof CATALOG_COPIES)[number];

export function catalogCopyPath(target: string, copy: CatalogCopy): string {
  return join(target, `catalog-copy-${copy}.json`);
}

export function journalPath(target: string): string {
  return join(target, JOURNAL_NAME);
}

export function verifiedPath(target: string): string {
  return join(target, VERIFIED_NAME);
}

/** @throws QmpBackupError `unsafe` for a name that is not one plain path component. */
export function diskFolder(target: string, disk: string): string {
  return join(target, component(disk));
}

/** @throws QmpBackupError `unsafe` for a name that is not one plain path component. */
export function filePath(target: string, disk: string, file: string): string {
  return pathIn(diskFolder(target, disk), file);
}

/**
 * `filePath` for who has the folder already: `join` takes longer than the look at the file.
 *
 * @throws QmpBackupError `unsafe` for a name that is not one plain path component.
 */
export function pathIn(folder: string, file: string): string {
  return `${folder}/${component(file)}`;
}

/** Where a file is written until it is whole. */
export function partialPath(target: string, disk: string, file: string): string {
  return `${filePath(target, disk, file)}${PARTIAL_SUFFIX}`;
}

/** `--monthly`: the target of one month in the folder of a VM, `<root>/<vm name>/<YYYY-MM>`: see `vmFolder`. */
export function monthFolder(vmFolder: string, month: string): string {
  if (!MONTH.test(month)) throw new QmpBackupError('failed', `"${month}" is not a month of the form YYYY-MM`);
  return join(vmFolder, month);
}

/** The other months beside `monthTarget` that hold a catalog, older and newer, in order of time. */
export async function siblingMonths(monthTarget: string): Promise<readonly string[]> {
  return withCatalog(
    (await monthsIn(dirname(monthTarget))).filter((month) => basename(month) !== basename(monthTarget)),
  );
}

/** The months in the folder of a VM in which a run is under way or died, in order of time. */
export async function monthsWithJournal(vmFolder: string): Promise<readonly string[]> {
  return having(await monthsIn(vmFolder), journalPath);
}

/** Every month in the folder of a VM, in order of time. */
export async function monthsIn(vmFolder: string): Promise<readonly string[]> {
  const months = (await foldersIn(vmFolder)).filter((name) => MONTH.test(name));
  return months.toSorted().map((name) => join(vmFolder, name));
}

/**
 * The targets that `--monthly` made below `root`: folders with a catalog, one or two levels down, in order of name. One that this user
 * may not look into is among them: it hides no other, and whoever reads it hears why it cannot be read.
 */
export async function catalogsBelow(root: string): Promise<readonly string[]> {
  const children = (await foldersIn(root)).map((name) => join(root, name));
  const found = await Promise.all(
    children.map(async (child) => {
      const names = await orForbidden(foldersIn(child));
      if (names === FORBIDDEN) return [child];
      const folders = [child, ...names.map((name) => join(child, name))];
      const are = await Promise.all(folders.map((folder) => orForbidden(isThere(catalogPath(folder)))));
      return folders.filter((_, at) => are[at] !== false);
    }),
  );
  return found.flat().toSorted();
}

const FORBIDDEN = 'forbidden';

async function orForbidden<T>(looking: Promise<T>): Promise<T | typeof FORBIDDEN> {
  try {
    return await looking;
  } catch (error) {
    if (isCausedBy(error, ['EACCES'])) return FORBIDDEN;
    throw error;
  }
}

/** Whether it is the name of a folder that `--monthly` has made. */
export function isMonth(name: string): boolean {
  return MONTH.test(name);
}

const MONTH = /^\d{4}-(?:0[1-9]|1[0-2])$/;

function component(name: string): string {
  if (isComponent(name)) return name;
  throw new QmpBackupError('unsafe', `${JSON.stringify(name)} is not a plain file name`, {
    hint: 'Names of disks and backup files have no slashes and do not begin with a dot.',
  });
}

/** The file system's own, which only root may read. */
export const LOST_AND_FOUND = 'lost+found';

async function foldersIn(folder: string): Promise<readonly string[]> {
  try {
    const entries = await readdir(folder, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory() && entry.name !== LOST_AND_FOUND).map(({ name }) => name);
  } catch (error) {
    if (codeOf(error) === 'ENOENT' || codeOf(error) === 'ENOTDIR') return [];
    throw fileError('read', folder, error);
  }
}

function withCatalog(folders: readonly string[]): Promise<readonly string[]> {
  return having(folders, catalogPath);
}

async function having(folders: readonly string[], pathOf: (folder: string) => string): Promise<readonly string[]> {
  const found = await Promise.all(folders.map(async (folder) => ((await isThere(pathOf(folder))) ? [folder] : [])));
  return found.flat().toSorted();
}
