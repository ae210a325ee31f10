import { join } from 'node:path';
import { asComponent, folderName } from '../core/names.js';
import { QmpBackupError } from '../errors.js';
import { readCatalog } from './catalog-file.js';
import { readJournal } from './journal-file.js';
import { monthsIn } from './layout.js';

/**
 * `--monthly`: the folder of the VM of this name below `root`, which need not be there yet. Earlier versions wrote `_` for
 * every letter that is not ASCII, so that VMs met in one folder: whose it has become goes on in it.
 */
export async function vmFolder(root: string, name: string): Promise<string> {
  const folder = join(root, folderName(name));
  const older = join(root, asComponent(name));
  return older !== folder && (await isOf(older, name)) ? older : folder;
}

/** The newest month that tells is what counts: an earlier one may be that of a VM that is gone. */
async function isOf(folder: string, name: string): Promise<boolean> {
  for (const month of (await monthsIn(folder)).toReversed()) {
    const vm = (await readOrNone(readCatalog(month)))?.vm ?? (await readOrNone(readJournal(month)))?.vm;
    if (vm) return [vm.label, vm.name, vm.uuid].includes(name);
  }
  return false;
}

/** What cannot be read tells of nobody; where it is this VM's, the run says so when it comes to it. */
async function readOrNone<T>(reading: Promise<T | undefined>): Promise<T | undefined> {
  try {
    return await reading;
  } catch (error) {
    if (error instanceof QmpBackupError) return undefined;
    throw error;
  }
}
