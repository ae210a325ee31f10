import { lstat, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { codeOf, fileError } from '../host/file-errors.js';
import { inspectProcess, judgeOwner, parseOwner, thisProcess } from '../host/lock-owner.js';
import { readPlainFile } from '../host/plain-file.js';

/**
 * A folder for sockets that nobody else may enter, with a record of the process whose it is: should that be killed, the
 * next one that makes such a folder removes it.
 */
const PREFIX = 'qmpbackup-open-';
const RECORD = 'owner.json';
const RECORD_LIMIT = 64 * 1024;
/** Between the making of a folder and that of its record there is no wait. */
const WITHOUT_RECORD_MS = 60_000;

/** Its absolute path. `what`: for whoever finds it. */
export async function makePrivateFolder(what: string): Promise<string> {
  await sweepPrivateFolders();
  try {
    const folder = await mkdtemp(join(tmpdir(), PREFIX));
    await writeFile(join(folder, RECORD), `${JSON.stringify(thisProcess(what))}\n`, { flag: 'wx', mode: 0o600 });
    return folder;
  } catch (error) {
    throw fileError('create a private folder in', tmpdir(), error);
  }
}

export async function removePrivateFolder(folder: string): Promise<void> {
  try {
    await rm(folder, { recursive: true, force: true });
  } catch (error) {
    throw fileError('remove', folder, error);
  }
}

/** Removes those of this user whose process is dead. */
async function sweepPrivateFolders(): Promise<void> {
  try {
    const names = (await readdir(tmpdir())).filter((name) => name.startsWith(PREFIX));
    for (const folder of names.map((name) => join(tmpdir(), name))) {
      if (await isLeft(folder)) await removePrivateFolder(folder);
    }
  } catch (error) {
    throw fileError('read', tmpdir(), error);
  }
}

async function isLeft(folder: string): Promise<boolean> {
  try {
    const stats = await lstat(folder);
    if (!stats.isDirectory() || stats.uid !== process.getuid?.()) return false;
    const text = await readPlainFile(join(folder, RECORD), RECORD_LIMIT, 'Remove that folder.');
    const owner = text === undefined ? undefined : parseOwner(text);
    if (!owner) return Date.now() - stats.mtimeMs > WITHOUT_RECORD_MS;
    return judgeOwner(owner, thisProcess('look'), inspectProcess) === 'dead';
  } catch (error) {
    // Somebody else has just removed it.
    if (codeOf(error) === 'ENOENT') return false;
    throw error;
  }
}
