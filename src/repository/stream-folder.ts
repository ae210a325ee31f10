import { lstat, mkdtemp, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { codeOf, fileError } from '../host/file-errors.js';
import { isThere } from '../host/is-there.js';
import { inspectProcess } from '../host/lock-owner.js';
import { journalPath } from './layout.js';
import { targetLockedBy } from './lock.js';
import { TEMPORARY } from './scratch-place.js';

/**
 * A copy that is stored nowhere has a folder for a target all the same, for as long as it lasts: lock, journal and the seal of its point are in it.
 * Nobody names the folder of one that was killed, so the next run looks for it.
 */
const STREAM_FOLDER = /^qmpbackup-stream-(\d+)-[A-Za-z0-9]{6}$/;

/** Of this process; mode 0700. */
export async function makeStreamFolder(): Promise<string> {
  try {
    return await mkdtemp(join(TEMPORARY, `qmpbackup-stream-${process.pid}-`));
  } catch (error) {
    throw fileError('create a folder in', TEMPORARY, error);
  }
}

export async function removeStreamFolder(folder: string): Promise<void> {
  try {
    // Other runs may look into it at the same moment, and try to lock it.
    await rm(folder, { recursive: true, force: true, maxRetries: 5 });
  } catch (error) {
    throw fileError('remove', folder, error);
  }
}

/** Those of this user's runs that have died. Others may make folders of these names there, and nothing in those is believed. */
export async function deadStreamFolders(): Promise<readonly string[]> {
  const dead: string[] = [];
  for (const name of await readdir(TEMPORARY)) {
    const pid = STREAM_FOLDER.exec(name)?.[1];
    const folder = join(TEMPORARY, name);
    if (pid !== undefined && (await isOwn(folder)) && (await isDead(folder, Number(pid)))) dead.push(folder);
  }
  return dead;
}

async function isOwn(folder: string): Promise<boolean> {
  try {
    const stats = await lstat(folder);
    return stats.isDirectory() && stats.uid === process.geteuid?.();
  } catch (error) {
    // Its run has just ended.
    if (codeOf(error) === 'ENOENT') return false;
    throw fileError('look at', folder, error);
  }
}

/** Whoever has a journal there had the lock first, which tells by more than a number whether it lives. */
async function isDead(folder: string, pid: number): Promise<boolean> {
  if (await targetLockedBy(folder)) return false;
  return (await isThere(journalPath(folder))) || inspectProcess(pid) === 'gone';
}
