import { realpath } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import type { Catalog } from '../core/catalog.js';
import { DEFINITION_FOLDER } from '../core/names.js';
import { messageOf, QmpBackupError } from '../errors.js';
import { readCatalog } from './catalog-file.js';

/**
 * What belongs to a target is nobody's place to write to: neither a target nor restored disks go into the folder of a
 * disk, where a rebase or a clean-up would meet them. The folder is absolute and need not be there.
 *
 * @throws QmpBackupError `unsafe`, with the target
 */
export async function refuseDiskFolder(named: string): Promise<void> {
  const folder = await realPathOf(named);
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

async function realPathOf(folder: string): Promise<string> {
  try {
    return await realpath(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return folder;
    throw new QmpBackupError('unsafe', `${folder} cannot be looked at: ${messageOf(error)}`, { cause: error });
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
