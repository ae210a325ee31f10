import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, lstat, open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { DEFINITION_FOLDER, isComponent } from '../core/names.js';
import type { DefinitionFile } from '../core/point.js';
import { QmpBackupError } from '../errors.js';
import { codeOf, fileError } from '../host/file-errors.js';
import { writeWithHoles } from '../host/write-all.js';
import { diskFolder, filePath } from './layout.js';
import type { Staging } from './staging.js';

/** The small files that a domain has beside its disks: read from the host, kept in the target, and proved when read. */

/** UEFI variables of ARM machines take 64 MiB; nothing that is kept with a definition is larger. Bytes. */
const LIMIT = 64 * 1024 * 1024;

/** How often a file that is written to meanwhile is read again. */
const TRIES = 5;

/**
 * A regular file at one moment: read again where it was written to meanwhile.
 *
 * @throws QmpBackupError when it cannot be read, is no regular file or too large, or never rests
 */
export async function readUnchanged(path: string): Promise<Buffer> {
  try {
    return await opened(path, 0, async (handle) => {
      for (let tries = 1; ; tries += 1) {
        const before = await handle.stat({ bigint: true });
        const bytes = await bytesOf(handle, path);
        const after = await handle.stat({ bigint: true });
        if (after.mtimeNs === before.mtimeNs && after.size === BigInt(bytes.length)) return bytes;
        if (tries === TRIES) throw new QmpBackupError('failed', `${path} was written to all the time that it was read`);
      }
    });
  } catch (error) {
    throw fileError('read', path, error);
  }
}

/**
 * The regular files below a folder, as paths relative to it, in order. Names that begin with a dot (the lock of a TPM
 * emulator) are not state and are left out.
 */
export async function listState(folder: string): Promise<readonly string[]> {
  try {
    const entries = await readdir(folder, { withFileTypes: true, recursive: true });
    return entries
      .filter((entry) => entry.isFile() && !entry.name.startsWith('.'))
      .map(({ parentPath, name }) => join(parentPath, name).slice(folder.length + 1))
      .toSorted();
  } catch (error) {
    throw fileError('read', folder, error);
  }
}

export function isPlainPath(path: string): boolean {
  return path.split('/').every(isComponent);
}

export type DefinitionPiece = Pick<DefinitionFile, 'kind' | 'file' | 'path'> & { readonly bytes: Buffer };

/** Writes the pieces into the target, durably, and gives them their names. Until the catalog names them they count for nothing. */
export async function keepPieces(
  staging: Staging,
  pieces: readonly DefinitionPiece[],
): Promise<readonly DefinitionFile[]> {
  await staging.makeDiskFolder(DEFINITION_FOLDER);
  const kept = await Promise.all(
    pieces.map(async ({ kind, file, path, bytes }): Promise<DefinitionFile> => {
      const partial = await staging.reserve(DEFINITION_FOLDER, file);
      await fillReserved(partial, bytes);
      return { kind, file, path, size: bytes.length, sha256: digestOf(bytes) };
    }),
  );
  await Promise.all(pieces.map(({ file }) => staging.promote(DEFINITION_FOLDER, file)));
  return kept;
}

/** @throws QmpBackupError `unsafe`, by name, for a file that is missing, a link, or not what the catalog says */
export async function readKept(target: string, { file, size, sha256 }: DefinitionFile): Promise<Buffer> {
  const refused = (why: string): QmpBackupError =>
    new QmpBackupError('unsafe', `${DEFINITION_FOLDER}/${file} cannot be used: ${why}`, {
      hint: 'Put back the file as it was backed up. The disks of the point do not need it.',
    });
  try {
    if (!(await lstat(diskFolder(target, DEFINITION_FOLDER))).isDirectory()) throw refused('its folder is a link');
    const bytes = await opened(filePath(target, DEFINITION_FOLDER, file), constants.O_NOFOLLOW, bytesOf);
    if (bytes.length !== size) throw refused(`it has ${bytes.length} bytes, the catalog says ${size}`);
    if (digestOf(bytes) !== sha256) throw refused('it was modified after it was sealed');
    return bytes;
  } catch (error) {
    if (codeOf(error) === 'ENOENT') throw refused('it is missing');
    throw fileError('read', `${DEFINITION_FOLDER}/${file}`, error);
  }
}

/** Writes a file that is there and empty, durably. */
export async function fillReserved(path: string, bytes: Buffer): Promise<void> {
  await filled(path, 'r+', bytes);
}

/** Writes a file that was not there, for its owner alone, durably. */
export async function writeNew(path: string, bytes: Buffer): Promise<void> {
  await filled(path, 'wx', bytes);
}

/** With holes: UEFI variables of 64 MiB are hardly anything else. */
async function filled(path: string, flags: 'r+' | 'wx', bytes: Buffer): Promise<void> {
  try {
    const handle = await open(path, flags, 0o600);
    try {
      await writeWithHoles(handle, bytes, 0);
      await handle.truncate(bytes.length);
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw fileError('write', path, error);
  }
}

async function opened<T>(
  path: string,
  flags: number,
  use: (handle: FileHandle, path: string) => Promise<T>,
): Promise<T> {
  const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK | flags);
  try {
    return await use(handle, path);
  } finally {
    await handle.close();
  }
}

async function bytesOf(handle: FileHandle, path: string): Promise<Buffer> {
  const stats = await handle.stat();
  if (!stats.isFile()) throw new QmpBackupError('unsafe', `${path} is not a regular file`);
  if (stats.size > LIMIT) throw new QmpBackupError('unsafe', `${path} has ${stats.size} bytes, more than ${LIMIT}`);
  const bytes = Buffer.alloc(stats.size);
  const { bytesRead } = await handle.read(bytes, 0, bytes.length, 0);
  return bytes.subarray(0, bytesRead);
}

function digestOf(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}
