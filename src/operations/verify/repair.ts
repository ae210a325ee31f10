import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { describeCatalog, isOlderThan } from '../../core/catalog-copy.js';
import type { Catalog } from '../../core/catalog.js';
import { recordedFiles } from '../../core/damage.js';
import { linkOf, type PointDisk } from '../../core/point.js';
import type { StrayKind } from '../../core/strays.js';
import { fileKey } from '../../core/verified.js';
import { QmpBackupError } from '../../errors.js';
import { syncFolder } from '../../host/durable.js';
import { codeOf, fileError } from '../../host/file-errors.js';
import { isBeingWritten } from '../../qemu-tools/in-use.js';
import { takeCatalogFromCopy } from '../../repository/catalog-file.js';
import { filesAmiss, isFolder } from '../../repository/file-state.js';
import { CATALOG_NAME, catalogPath, diskFolder, pathIn } from '../../repository/layout.js';
import { refuseOpenFiles } from '../../repository/open-mark.js';
import { whyNoPieceList } from '../../repository/look-at-recorded.js';
import { mendLink, mendPieceList } from '../../repository/mend-file.js';
import { removeRetiredFiles } from '../../repository/retired-files.js';
import { StrayFolder } from '../../repository/stray-folder.js';
import type { ToldByTarget } from './read-target.js';
import type { VerifyRun } from './request.js';
import { findStrays, type Stray } from './strays.js';

/**
 * `--repair`: what can be mended without losing a point. Each step leaves a target that the next run can go on with; a file is
 * deleted only where a journal or the catalog says that it is nothing, all else is moved aside. For who holds the lock.
 */
export async function repairTarget(run: VerifyRun, target: string, told: ToldByTarget): Promise<readonly string[]> {
  const aside = new StrayFolder(target, run.now());
  const copy = await copyToTake(target, told);
  let catalog = copy ?? told.catalog;
  // Nothing tells what of the files is a backup.
  if (!catalog) return [];
  const recorded = recordedFiles(catalog).map(fileKey);
  await refuseOpenFiles(target, recorded, { breakLock: run.options.breakLock, dryRun: false });
  const done: string[] = [];
  if (copy) {
    // Before the catalog: a run that is killed in between finds it as it was, and begins again.
    done.push(...(await moveStrays(target, { ...told, catalog }, aside, ALL)));
    done.push(...(await replaceCatalog(target, copy, aside)));
  } else {
    const tidied = await removeRetiredFiles(target, catalog);
    ({ catalog } = tidied);
    done.push(...tidied.removed.map((file) => `removed ${file}, whose point was pruned or merged`));
    done.push(...(await removeRetired(target, { ...told, catalog })));
    done.push(...(await moveStrays(target, { ...told, catalog }, aside, ['stray', 'partial'])));
  }
  done.push(...(await mendFiles(run, target, catalog)));
  return done;
}

type Known = Pick<ToldByTarget, 'journal'> & { readonly catalog: Catalog };

/** After a catalog was taken from its copy a journal may be of a point that is no longer known: nothing is deleted then. */
const ALL: readonly StrayKind[] = ['stray', 'partial', 'unsealed', 'retired'];

/** The copy that is to be the catalog, or undefined where the one that is there stays. */
async function copyToTake(target: string, { catalog, copies, isLost }: ToldByTarget): Promise<Catalog | undefined> {
  if (!catalog) return isLost ? copies[0] : undefined;
  const newer = copies.find((copy) => isOlderThan(catalog, copy));
  if (newer) return newer;
  const other = copies.find(({ targetId }) => targetId !== catalog.targetId);
  // Which of the two is right, the files tell.
  if (!other) return undefined;
  return (await amissOf(target, other)) === 0 && (await amissOf(target, catalog)) > 0 ? other : undefined;
}

async function amissOf(target: string, catalog: Catalog): Promise<number> {
  return (await filesAmiss(target, recordedFiles(catalog))).size;
}

async function replaceCatalog(target: string, copy: Catalog, aside: StrayFolder): Promise<readonly string[]> {
  const path = catalogPath(target);
  // Under another name, or list would find a target there. Until the copy is in its place it is missing, and every run refuses.
  const moved = await takeIfThere(aside, path, `${CATALOG_NAME}.damaged`);
  await takeCatalogFromCopy(target, copy);
  const kept = moved ? `; the one that was there is in ${nameOf(aside)}` : '';
  return [`took ${CATALOG_NAME} from its copy, ${describeCatalog(copy)}${kept}`];
}

async function takeIfThere(aside: StrayFolder, path: string, name: string): Promise<boolean> {
  try {
    await aside.take(path, name);
    return true;
  } catch (error) {
    if (error instanceof QmpBackupError && codeOf(error.cause) === 'ENOENT') return false;
    throw error;
  }
}

function nameOf({ path }: StrayFolder): string {
  return path?.slice(path.lastIndexOf('/') + 1) ?? '';
}

async function moveStrays(
  target: string,
  { catalog, journal }: Known,
  aside: StrayFolder,
  kinds: readonly StrayKind[],
): Promise<readonly string[]> {
  const done: string[] = [];
  for (const stray of await straysIn(target, { catalog, journal }, kinds, 'take')) {
    await aside.take(pathOf(target, stray));
    done.push(`moved ${keyOf(stray)} to ${nameOf(aside)}`);
  }
  return done;
}

/** By the journal of a run that died before its point was sealed, or merged by a rebase that died before it had tidied up. */
async function removeRetired(target: string, { catalog, journal }: Known): Promise<readonly string[]> {
  const done: string[] = [];
  for (const stray of await straysIn(target, { catalog, journal }, ['unsealed', 'retired'], 'leave')) {
    const path = pathOf(target, stray);
    try {
      await rm(path, { force: true });
    } catch (error) {
      throw fileError('remove', path, error);
    }
    await syncFolder(diskFolder(target, stray.folder));
    done.push(`removed ${keyOf(stray)}, which is in no point`);
  }
  return done;
}

/** But for those that a QEMU is writing; `unsure`: what is done with one of which that cannot be told. */
async function straysIn(
  target: string,
  { catalog, journal }: Known,
  kinds: readonly StrayKind[],
  unsure: 'take' | 'leave',
): Promise<readonly Stray[]> {
  const { strays } = await findStrays(target, catalog, journal);
  const idle: Stray[] = [];
  for (const stray of strays.filter(({ kind }) => kinds.includes(kind))) {
    const isWritten = await isBeingWritten(pathOf(target, stray)).catch(ofOurs(unsure === 'leave'));
    if (!isWritten) idle.push(stray);
  }
  return idle;
}

/** The answer in the place of an error that is told by who looks at the files; others are none of these. */
function ofOurs<T>(instead: T): (error: unknown) => T {
  return (error) => {
    if (error instanceof QmpBackupError && error.code !== 'interrupted') return instead;
    throw error;
  };
}

function pathOf(target: string, { folder, file }: Stray): string {
  return folder === '' ? join(target, file) : join(target, folder, file);
}

function keyOf({ folder, file }: Stray): string {
  return folder === '' ? file : `${folder}/${file}`;
}

/** Links in headers, and lists of pieces, where the digest of the file proves them. */
async function mendFiles(run: VerifyRun, target: string, catalog: Catalog): Promise<readonly string[]> {
  const { signal, options } = run;
  const how = { signal, rateLimit: options.rateLimit };
  const done: string[] = [];
  const entries = catalog.points.flatMap(({ disks }) => disks);
  // While a merge is half done, links are other than the catalog says, and rightly so.
  const merging = new Set(entries.filter(({ state }) => state === 'merging').map(({ disk }) => disk));
  for (const entry of entries.filter(({ state, disk }) => state === 'whole' && !merging.has(disk))) {
    signal.throwIfAborted();
    if (!(await isFolder(diskFolder(target, entry.disk)).catch(ofOurs(false)))) continue;
    const path = pathIn(diskFolder(target, entry.disk), entry.file);
    done.push(...(await mendFile(path, entry, how).catch(ofOurs([]))));
  }
  return done;
}

async function mendFile(
  path: string,
  entry: PointDisk,
  how: Parameters<typeof mendLink>[2],
): Promise<readonly string[]> {
  const done: string[] = [];
  const name = `${entry.disk}/${entry.file}`;
  if (await mendLink(path, entry, how)) done.push(`gave ${name} its link to ${linkOf(entry) ?? 'nothing'} again`);
  if ((await whyNoPieceList(path, entry)) === undefined) return done;
  if (await mendPieceList(path, entry, how)) done.push(`made the list of pieces of ${name} again`);
  return done;
}
