import { open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { PARTIAL_SUFFIX } from '../../core/names.js';
import { QmpBackupError } from '../../errors.js';
import type { Unwind } from '../../flow/unwind.js';
import { syncFolder } from '../../host/durable.js';
import { codeOf, fileError } from '../../host/file-errors.js';
import { isThere } from '../../host/is-there.js';
import { writeAll } from '../../host/write-all.js';
import { refuseBackupFolder } from '../../repository/nesting.js';

/** An archive that is written into a file: it has its name when it is whole and on the disk, and is gone before. */
export interface ArchiveFile {
  readonly path: string;
  readonly write: (bytes: Buffer) => Promise<void>;
  readonly keep: () => Promise<void>;
}

/** @throws QmpBackupError `unsafe` where something has the name, or the folder belongs to a target */
export async function openArchive(path: string, unwind: Unwind): Promise<ArchiveFile> {
  await refuseBackupFolder(dirname(path));
  const partial = `${path}${PARTIAL_SUFFIX}`;
  for (const each of [path, partial]) {
    if (await isThere(each)) {
      throw new QmpBackupError('unsafe', `${each} exists already and is not overwritten`, {
        hint: 'Choose another name, or remove it if nobody needs it.',
      });
    }
  }
  let at = 0;
  try {
    const handle = await open(partial, 'wx', 0o600);
    let isOpen = true;
    const close = async (): Promise<void> => {
      if (isOpen) await handle.close();
      isOpen = false;
    };
    unwind.defer(() => rm(partial, { force: true }));
    unwind.defer(close);
    return {
      path,
      write: async (bytes) => {
        await writeAll(handle, bytes, at).catch((error: unknown) => {
          throw fileError('write', path, error);
        });
        at += bytes.length;
      },
      keep: async () => {
        await handle.sync();
        await close();
        await rename(partial, path);
        await syncFolder(dirname(path));
      },
    };
  } catch (error) {
    if (codeOf(error) === undefined) throw error;
    throw fileError('create', partial, error);
  }
}
