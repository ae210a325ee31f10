import { lstat, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { QmpBackupError } from '../errors.js';
import { codeOf, fileError } from '../host/file-errors.js';
import { inspectProcess, judgeOwner, type LockOwner, parseOwner, thisProcess } from '../host/lock-owner.js';
import { readPlainFile } from '../host/plain-file.js';
import { clearMount } from './mount-record.js';

/**
 * A folder for sockets that nobody else may enter, with a record of the process whose it is: should that be killed, the
 * next one that makes such a folder removes it.
 */
const PREFIX = 'qmpbackup-open-';
const RECORD = 'owner.json';
const RECORD_LIMIT = 64 * 1024;
/** With the process that made it, which may have no record yet. */
const NAME = /^qmpbackup-open-(\d+)-[A-Za-z0-9]{6}$/;
/** Between the making of a folder and that of its record there is no wait. */
const WITHOUT_RECORD_MS = 60_000;

/** Its absolute path, after those that were left behind are gone. `owner`: with whom it ends. */
export async function makePrivateFolder(owner: LockOwner): Promise<string> {
  await sweepPrivateFolders();
  try {
    const folder = await mkdtemp(join(tmpdir(), `${PREFIX}${process.pid}-`));
    try {
      await writeFile(join(folder, RECORD), `${JSON.stringify(owner)}\n`, { flag: 'wx', mode: 0o600 });
      return folder;
    } catch (error) {
      // On a full disk a folder can be made, and nothing in it.
      await rm(folder, { recursive: true, force: true });
      throw error;
    }
  } catch (error) {
    throw fileError('create a private folder in', tmpdir(), error);
  }
}

/** First of all what is mounted from there. */
export async function removePrivateFolder(folder: string): Promise<void> {
  // A record may say anything.
  if (!basename(folder).startsWith(PREFIX)) throw new QmpBackupError('unsafe', `${folder} is no folder of ours`);
  await clearMount(folder);
  try {
    await rm(folder, { recursive: true, force: true });
  } catch (error) {
    throw fileError('remove', folder, error);
  }
}

/** Removes those of this user whose process is dead. */
export async function sweepPrivateFolders(): Promise<void> {
  const left = (await privateFolders()).filter((each) => each.left);
  // What cannot be unmounted today keeps its folder, and stops nobody else: the next one tries again. A mount may lie in
  // another of these folders.
  for (const { folder } of left) await clearMount(folder).catch(ignoreOurs);
  for (const { folder } of left) await removePrivateFolder(folder).catch(ignoreOurs);
}

function ignoreOurs(error: unknown): void {
  if (!(error instanceof QmpBackupError)) throw error;
}

export interface PrivateFolder {
  readonly folder: string;
  /** Undefined where nobody can tell. */
  readonly owner: LockOwner | undefined;
  /** Its owner is dead. */
  readonly left: boolean;
}

/** Those of this user. */
export async function privateFolders(): Promise<readonly PrivateFolder[]> {
  try {
    const names = (await readdir(tmpdir())).filter((name) => name.startsWith(PREFIX));
    const found = await Promise.all(names.map((name) => readOne(join(tmpdir(), name))));
    return found.filter((each) => each !== null);
  } catch (error) {
    throw fileError('read', tmpdir(), error);
  }
}

async function readOne(folder: string): Promise<PrivateFolder | null> {
  try {
    const stats = await lstat(folder);
    if (!stats.isDirectory() || stats.uid !== process.getuid?.()) return null;
    const text = await readPlainFile(join(folder, RECORD), RECORD_LIMIT, 'Remove that folder.');
    const owner = text === undefined ? undefined : parseOwner(text);
    const left = owner
      ? judgeOwner(owner, thisProcess('look'), inspectProcess) === 'dead'
      : Date.now() - stats.mtimeMs > WITHOUT_RECORD_MS && !makerLives(folder);
    return { folder, owner, left };
  } catch (error) {
    // Somebody else has just removed it.
    if (codeOf(error) === 'ENOENT') return null;
    throw error;
  }
}

/** Clocks jump: its age alone does not tell that nobody is about to write its record. */
function makerLives(folder: string): boolean {
  const pid = NAME.exec(basename(folder))?.[1];
  return pid !== undefined && inspectProcess(Number(pid)) !== 'gone';
}
