import { rmdirSync, unlinkSync } from 'node:fs';
import { chmod, lstat, mkdir, open, readdir, rename, rm, rmdir, stat, unlink, utimes } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { callbackify } from 'node:util';
import { QmpBackupError } from '../errors.js';
import { codeOf, fileError } from '../host/file-errors.js';
import { type LockOwner, parseOwner } from '../host/lock-owner.js';
import { setOwnership } from '../host/ownership.js';
import { readPlainFile } from '../host/plain-file.js';

/**
 * A lock on disk: a folder with one file, `owner-<id>.json`. It is made beside its place and renamed into it, so it is
 * never there without its record. Whoever frees it unlinks the record by its unique name, and so can never free the
 * lock of somebody who took it meanwhile: an empty folder is a free lock, and rename replaces only an empty folder.
 */
export interface Holder {
  readonly id: string;
  /** Undefined when the record cannot be understood. */
  readonly owner: LockOwner | undefined;
  /** When the holder last refreshed the lock, in milliseconds since 1970 of the file system's clock. */
  readonly lastSeenMs: number;
}

const RECORD = /^owner-([0-9a-f]{16})\.json$/;
const RECORD_LIMIT = 64 * 1024;

function recordPath(folder: string, id: string): string {
  return join(folder, `owner-${id}.json`);
}

/** Who holds the lock, or undefined when it is free. */
export async function readHolder(path: string): Promise<Holder | undefined> {
  const hint = `If no backup is running, remove ${path} by hand.`;
  try {
    const stats = await lstat(path);
    if (!stats.isDirectory()) throw new QmpBackupError('unsafe', `${path} is in the place of a lock folder`, { hint });
    const names = await readdir(path);
    const id = names.map((name) => RECORD.exec(name)?.[1]).find((each) => each !== undefined);
    if (id === undefined) {
      if (names.length === 0) return undefined;
      throw new QmpBackupError('unsafe', `the lock folder ${path} holds files of somebody else`, { hint });
    }
    const text = await readPlainFile(recordPath(path, id), RECORD_LIMIT, hint);
    return text === undefined ? undefined : { id, owner: parseOwner(text), lastSeenMs: stats.mtimeMs };
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw fileError('read the lock', path, error);
  }
}

/** Frees the lock if `id` still holds it. */
export async function freeLock(path: string, id: string): Promise<void> {
  await unlink(recordPath(path, id)).catch(unless('ENOENT'));
  await rmdir(path).catch(unless(...TAKEN, 'ENOENT'));
}

/** The file functions that proper-lockfile works with, for the lock at `path` held under `id`. */
export function lockFileSystem(path: string, id: string, owner: LockOwner): object {
  let refreshed = new Date();
  const record = recordPath(path, id);
  return {
    mkdir: callbackify(() => takePlace(path, id, owner)),
    rmdir: callbackify(() => freeLock(path, id)),
    // At exit, also after a signal that nobody handles.
    rmdirSync: (): void => {
      unlinkSync(record);
      rmdirSync(path);
    },
    // Ours is known by the record. Times of files do not tell: file systems round them, and anybody can set them.
    stat: callbackify(async () => {
      await stat(record);
      return { mtime: refreshed };
    }),
    utimes: callbackify(async (_path: string, accessed: Date, modified: Date) => {
      refreshed = modified;
      await utimes(path, accessed, modified);
    }),
  };
}

/** Errors of rename and rmdir that mean: somebody has that place. */
const TAKEN = ['ENOTEMPTY', 'EEXIST', 'ENOTDIR'];

/** @throws an error of code EEXIST when the lock is held */
async function takePlace(path: string, id: string, owner: LockOwner): Promise<void> {
  const fresh = `${path}${NEW}${id}`;
  let made = false;
  try {
    await mkdir(fresh);
    made = true;
    // Whatever the umask: other users shall be told who holds the lock.
    await chmod(fresh, 0o755).catch(unless('EPERM', 'ENOTSUP'));
    const handle = await open(recordPath(fresh, id), 'wx');
    try {
      await setOwnership(handle, 0o644, undefined);
      await handle.writeFile(`${JSON.stringify(owner, null, 1)}\n`);
      // After a power cut the record must still tell that its owner is of an earlier boot.
      await handle.sync();
    } finally {
      await handle.close();
    }
    // A free lock that was left as an empty folder; not every file system renames over one.
    await rmdir(path).catch(unless(...TAKEN, 'ENOENT'));
    await rename(fresh, path);
  } catch (error) {
    await rm(fresh, { recursive: true, force: true });
    const code = codeOf(error) ?? '';
    const swept = made && code === 'ENOENT';
    // In a sticky folder, the lock of another user is not in the way but forbidden.
    const held = swept || TAKEN.includes(code) || (await readHolder(path)) !== undefined;
    throw held ? Object.assign(new Error('the lock is held'), { code: 'EEXIST' }) : error;
  }
}

const NEW = '.new-';

/**
 * Removes the folders that contenders are making, or died while they made, beside the lock at `path`. Only for who
 * holds it: a live contender could not have it now either, and looks again. What cannot be removed is in nobody's way.
 */
export async function sweepAttempts(path: string): Promise<void> {
  const parent = dirname(path);
  const prefix = `${basename(path)}${NEW}`;
  const left = (await readdir(parent)).filter((name) => name.startsWith(prefix));
  await Promise.allSettled(left.map((name) => rm(join(parent, name), { recursive: true, force: true })));
}

function unless(...codes: readonly string[]): (error: unknown) => void {
  return (error) => {
    if (!codes.includes(codeOf(error) ?? '')) throw error;
  };
}
