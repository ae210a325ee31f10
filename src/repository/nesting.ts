import { readlink, realpath } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import type { Catalog } from '../core/catalog.js';
import { DEFINITION_FOLDER } from '../core/names.js';
import { whyNotApart } from '../core/within-folder.js';
import { messageOf, QmpBackupError } from '../errors.js';
import { codeOf } from '../host/file-errors.js';
import { readCatalog } from './catalog-file.js';

/**
 * What belongs to a target is nobody's place to write to: neither a target nor restored disks go into the folder of a
 * disk or below it, where a rebase or a clean-up would meet them. The folder is absolute and need not be there.
 *
 * @throws QmpBackupError `unsafe`, with the target
 */
export async function refuseDiskFolder(named: string): Promise<void> {
  const folder = await realPathOf(named);
  for (let each = folder; each !== dirname(each); each = dirname(each)) await refuseOwnFolder(each);
}

/** Where it is the folder of a disk, or of definitions. */
async function refuseOwnFolder(folder: string): Promise<void> {
  const target = dirname(folder);
  const catalog = await catalogIn(target);
  const disks = catalog?.points.flatMap((point) => point.disks.map(({ disk }) => disk));
  if (!disks || ![...disks, DEFINITION_FOLDER].includes(basename(folder))) return;
  throw new QmpBackupError('unsafe', `${folder} belongs to the backup in ${target}`, {
    hint: `Choose another folder. The target of that backup is ${target}.`,
  });
}

/** As `refuseDiskFolder`, and for the target itself. */
export async function refuseBackupFolder(folder: string): Promise<void> {
  await refuseDiskFolder(folder);
  if ((await catalogIn(folder)) === undefined) return;
  throw new QmpBackupError('unsafe', `${folder} is the target of backups`, {
    hint: 'Choose another folder for what is restored; it will be made.',
  });
}

/**
 * What a guest writes to lies apart from backups, from these and from those of any other target. Both are folders, and need not be
 * there.
 *
 * @throws QmpBackupError `unsafe`
 */
export async function refuseOverlaysInTarget(overlays: string, target: string | null): Promise<null> {
  const folder = await realPathOf(resolve(overlays));
  const why = target === null ? null : whyNotApart(folder, await realPathOf(resolve(target)));
  if (why !== null) throw overlaysInTarget(why);
  for (let each = folder; ; each = dirname(each)) {
    if ((await catalogIn(each)) !== undefined) throw overlaysInTarget(whyNotApart(folder, each) ?? '');
    if (each === dirname(each)) return null;
  }
}

function overlaysInTarget(why: string): QmpBackupError {
  return new QmpBackupError('unsafe', `${why}: who tidies up or unmounts the one would meet the other`, {
    hint: 'Choose another --overlay-dir, outside of every target and not above one, on storage that stays with the VM.',
  });
}

async function realPathOf(folder: string): Promise<string> {
  try {
    return await realpath(folder);
  } catch (error) {
    if (codeOf(error) === 'ENOENT' && dirname(folder) !== folder) {
      const to = await linkAt(folder);
      if (to !== null) return realPathOf(resolve(dirname(folder), to));
      // What is not there yet is below what is.
      return join(await realPathOf(dirname(folder)), basename(folder));
    }
    throw new QmpBackupError('unsafe', `${folder} cannot be looked at: ${messageOf(error)}`, { cause: error });
  }
}

/** Where a link leads to that leads to nothing yet; null where there is none. */
async function linkAt(path: string): Promise<string | null> {
  try {
    return await readlink(path);
  } catch (error) {
    if (codeOf(error) === undefined) throw error;
    return null;
  }
}

/** What is wrong with the catalog of a folder that is not asked for is told by those who use it. */
async function catalogIn(folder: string): Promise<Catalog | undefined> {
  try {
    return await readCatalog(folder);
  } catch (error) {
    if (error instanceof QmpBackupError) return undefined;
    throw error;
  }
}
