import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { codeOf } from '../../host/file-errors.js';
import { type LockOwner, thisProcess } from '../../host/lock-owner.js';
import { makePrivateFolder, privateFolders } from '../../storage-daemon/private-folder.js';

/**
 * What a mount in the background has to say at its end, for the `umount` that waits for that: nobody hears it otherwise. It goes
 * with the folders of dead processes.
 */
const NAME = 'verdict';

/** By the process of the mount, as the last that it does. */
export async function leaveVerdict(words: string): Promise<void> {
  const folder = await makePrivateFolder(thisProcess('what a mount has found'));
  await writeFile(join(folder, NAME), words, { flag: 'wx', mode: 0o600 });
}

/** Null where it left none. To be asked before the folders of the dead are swept. */
export async function verdictOf(owner: LockOwner): Promise<string | null> {
  for (const { folder, owner: its } of await privateFolders()) {
    if (its?.pid !== owner.pid || its.processStartTime !== owner.processStartTime) continue;
    const words = await readFile(join(folder, NAME), 'utf8').catch((error: unknown) => {
      if (codeOf(error) !== 'ENOENT') throw error;
    });
    if (words !== undefined) return words;
  }
  return null;
}
