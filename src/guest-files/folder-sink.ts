import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { chmod, type FileHandle, lchown, lstat, lutimes, mkdir, open, rename, rm, symlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { QmpBackupError } from '../errors.js';
import { fileError } from '../host/file-errors.js';
import { isThere } from '../host/is-there.js';
import { writeAll } from '../host/write-all.js';
import type { FileSink } from './file-sink.js';
import type { LocatedFile } from './reader.js';

/**
 * Writes into a folder, and never through a link: what is above a file is looked at each time, and links are made last of all. A
 * file has another name until all of its bytes are there. Nothing is overwritten. Owners, and setuid with them, as root only.
 */
export function folderSink(folder: string): FileSink {
  const isRoot = process.getuid?.() === 0;
  const later: (() => Promise<void>)[] = [];
  const place = async (path: string): Promise<string> => {
    const full = join(folder, path);
    for (let at = dirname(path); at !== '.'; at = dirname(at)) {
      const stats = await lstat(join(folder, at));
      if (!stats.isDirectory()) throw inTheWay(join(folder, at));
    }
    if (await isThere(full)) throw inTheWay(full);
    return full;
  };
  const attributes = async (full: string, { uid, gid, mode, mtime }: LocatedFile): Promise<void> => {
    if (isRoot) await lchown(full, uid, gid);
    await chmod(full, isRoot ? mode : mode & 0o777);
    await lutimes(full, mtime, mtime);
  };
  return {
    folder: async (path, file) => {
      const full = await place(path);
      await inWords(full, () => mkdir(full, { mode: 0o700 }));
      later.push(() => attributes(full, file));
    },
    link: async (path, file, target) => {
      const full = await place(path);
      later.push(async () => {
        await symlink(target, full);
        if (isRoot) await lchown(full, file.uid, file.gid);
        await lutimes(full, file.mtime, file.mtime);
      });
    },
    file: async (path, file, read) => {
      const full = await place(path);
      // No guest has a file of that name, nor is it ever too long.
      const partial = join(dirname(full), `qmpbackup-${randomBytes(12).toString('hex')}.partial`);
      const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
      const handle = await inWords(partial, () => open(partial, flags, 0o600));
      try {
        try {
          await writeSparsely(handle, read, file.size);
        } finally {
          await handle.close();
        }
        await attributes(partial, file);
        if (await isThere(full)) throw inTheWay(full);
        await rename(partial, full);
      } catch (error) {
        await rm(partial, { force: true });
        throw fileError('write', full, error);
      }
    },
    // Links, then what changes a folder's time.
    end: async () => {
      for (const step of later.toReversed()) await inWords(folder, step);
    },
  };
}

/** Zeros are left out, as long as they come in whole pieces. */
async function writeSparsely(
  handle: FileHandle,
  read: (take: (bytes: Buffer) => Promise<void>) => Promise<void>,
  size: number,
): Promise<void> {
  let at = 0;
  await read(async (bytes) => {
    if (!bytes.every((byte) => byte === 0)) await writeAll(handle, bytes, at);
    at += bytes.length;
  });
  await handle.truncate(size);
}

async function inWords<T>(path: string, step: () => Promise<T>): Promise<T> {
  try {
    return await step();
  } catch (error) {
    throw fileError('write', path, error);
  }
}

function inTheWay(path: string): QmpBackupError {
  return new QmpBackupError('unsafe', `${path} is there already, and nothing is overwritten`, {
    hint: 'Choose another --output, or move that away.',
  });
}
