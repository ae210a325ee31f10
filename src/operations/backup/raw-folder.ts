import { mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { RawSink } from '../../backends/raw-sink.js';
import { DEFINITION_FOLDER, MACHINE_FILE, PARTIAL_SUFFIX, rawFileName } from '../../core/names.js';
import { QmpBackupError } from '../../errors.js';
import type { Unwind } from '../../flow/unwind.js';
import { syncFolder } from '../../host/durable.js';
import { codeOf, fileError } from '../../host/file-errors.js';
import { writeAll, writeWithHoles } from '../../host/write-all.js';
import { LOCK_NAME } from '../../repository/layout.js';
import { lockFolder } from '../../repository/lock.js';
import { makeFolder } from '../../repository/make-folder.js';

/**
 * Raw images in a folder, which has its name when all of it is there: until then it is `<folder>.partial`. What a run that was killed has left of
 * that is made anew.
 *
 * @throws QmpBackupError `unsafe` where something is in the folder, or a file system mounted; `locked` where another run is at it
 */
export async function rawFolder(
  folder: string,
  { breakLock }: { readonly breakLock: boolean },
  unwind: Unwind,
): Promise<RawSink> {
  await refuseUnusable(folder);
  const partial = `${folder}${PARTIAL_SUFFIX}`;
  await makeFolder(dirname(folder), unwind);
  await mkdir(partial, 0o700).catch((error: unknown) => {
    if (codeOf(error) !== 'EEXIST') throw fileError('create the folder', partial, error);
  });
  const lock = await lockFolder(partial, { breakLock, purpose: `raw copy into ${folder}` });
  let isWhole = false;
  unwind.defer(async () => {
    await lock.release();
    if (!isWhole) await rm(partial, { recursive: true, force: true });
  });
  await removeRemains(partial);
  return {
    disk: async (disk, { size }) => {
      const path = join(partial, rawFileName(disk));
      const handle = await open(path, 'wx', 0o600).catch((error: unknown) => {
        throw fileError('create', path, error);
      });
      unwind.defer(() => handle.close());
      const step = async (body: () => Promise<void>): Promise<void> => {
        try {
          await body();
        } catch (error) {
          throw fileError('write', path, error);
        }
      };
      await step(() => handle.truncate(size));
      return {
        // A block device tells of no holes.
        write: (offset, bytes) => step(() => writeWithHoles(handle, bytes, offset)),
        end: async () => {
          await step(() => handle.sync());
          await handle.close();
        },
      };
    },
    file: (path, bytes) => writeSmall(partial, path, bytes),
    end: async () => {
      await syncFolder(partial);
      await lock.release();
      try {
        // Over an empty folder, and over nothing else.
        await rename(partial, folder);
      } catch (error) {
        throw fileError('rename', partial, error);
      }
      isWhole = true;
      await syncFolder(dirname(folder));
    },
  };
}

async function writeSmall(partial: string, path: string, bytes: Buffer): Promise<void> {
  const place = join(partial, path);
  try {
    await mkdir(dirname(place), { recursive: true, mode: 0o700 });
    const handle = await open(place, 'wx', 0o600);
    try {
      await writeAll(handle, bytes, 0);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await syncFolder(dirname(place));
  } catch (error) {
    throw fileError('write', place, error);
  }
}

/** Where the images could not become it by one rename. */
async function refuseUnusable(folder: string): Promise<void> {
  const names = await namesIn(folder);
  if (names === undefined) return;
  if (names.length > 0) {
    throw new QmpBackupError('unsafe', `--output: ${folder} is not empty`, {
      hint: 'Nothing was changed. Name a folder that is not there yet, or is empty.',
    });
  }
  // The images are made beside it.
  if ((await stat(folder)).dev === (await stat(dirname(folder))).dev) return;
  throw new QmpBackupError(
    'unsafe',
    `--output: ${folder} is where a file system is mounted, which nothing can replace`,
    {
      hint: `Nothing was changed. Name a folder in it, as ${join(folder, 'copy')}.`,
    },
  );
}

/** Undefined where it is not there. */
async function namesIn(folder: string): Promise<readonly string[] | undefined> {
  try {
    return await readdir(folder);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw fileError('read the folder', folder, error);
  }
}

/** Only what such a run makes: the folder may be somebody's own. */
async function removeRemains(partial: string): Promise<void> {
  const names = ((await namesIn(partial)) ?? []).filter((name) => !name.startsWith(LOCK_NAME));
  const other = names.find((name) => !REMAINS.test(name));
  if (other !== undefined) {
    throw new QmpBackupError('unsafe', `${partial} has something else in it: ${other}`, {
      hint: 'The images are made there until they are whole. Move it away, or name another folder.',
    });
  }
  for (const name of names) await rm(join(partial, name), { recursive: true });
}

const REMAINS = new RegExp(`^(.+\\.raw|${MACHINE_FILE.replace('.', '\\.')}|${DEFINITION_FOLDER})$`);
