import { constants } from 'node:fs';
import { open, utimes } from 'node:fs/promises';
import { isFault } from '../core/file-record.js';
import { linkFault } from '../core/header-link.js';
import { hasDigest, methodOfPieces } from '../core/pieces.js';
import { linkOf, type PointDisk } from '../core/point.js';
import { QmpBackupError } from '../errors.js';
import { syncFile } from '../host/durable.js';
import { fileError } from '../host/file-errors.js';
import { readHeader } from '../qemu-tools/examine.js';
import { removeBackingLink, rebaseUnsafe } from '../qemu-tools/steps.js';
import { whyDamaged } from './check-file.js';
import { digestByPieces, type DigestOptions } from './digest.js';
import { lookAtFile } from './file-state.js';
import { replacePieceList } from './piece-list.js';

/** What can be mended of a recorded file, because its digest proves that it was. */

/**
 * Gives an image whose header names another backing file the recorded one. Kept only where all its bytes are then those that
 * were sealed; else it is put back as it was. Killed in between it has another time, so that its digest decides what it is.
 *
 * @returns whether it was mended
 */
export async function mendLink(path: string, entry: PointDisk, options: DigestOptions): Promise<boolean> {
  if (!hasDigest(entry) || !(await hasOtherLink(path, entry))) return false;
  const before = await headOf(path);
  try {
    const link = linkOf(entry);
    if (link === null) await removeBackingLink(path, options);
    else await rebaseUnsafe(path, link, options);
    const seen = await lookAtFile(path, entry);
    if (!isFault(seen) && (await whyDamaged(path, entry, options)) === undefined) {
      await syncFile(path);
      return true;
    }
  } catch (error) {
    await putBack(path, before);
    throw error;
  }
  await putBack(path, before);
  return false;
}

/** Of an image that has its length, no data file, and whose disk is the one that was recorded. */
async function hasOtherLink(path: string, entry: PointDisk): Promise<boolean> {
  if (isFault(await lookAtFile(path, entry))) return false;
  try {
    const header = await readHeader(path, entry.file);
    const fault = linkFault(header, [linkOf(entry)]);
    return fault !== undefined && fault.kind !== 'data-file' && header.virtualSize === entry.virtualSize;
  } catch (error) {
    if (error instanceof QmpBackupError) return false;
    throw error;
  }
}

/** The first cluster, of whatever size: all that a change of the link writes. Bytes. */
const MOST_OF_HEADER = 2 * 1024 * 1024;

interface Head {
  readonly bytes: Buffer;
  /** Milliseconds. */
  readonly atimeMs: number;
  readonly mtimeMs: number;
}

async function headOf(path: string): Promise<Head> {
  try {
    const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
    try {
      const { atimeMs, mtimeMs } = await handle.stat();
      const { buffer, bytesRead } = await handle.read(Buffer.alloc(MOST_OF_HEADER), 0, MOST_OF_HEADER, 0);
      return { bytes: buffer.subarray(0, bytesRead), atimeMs, mtimeMs };
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw fileError('read', path, error);
  }
}

async function putBack(path: string, { bytes, atimeMs, mtimeMs }: Head): Promise<void> {
  try {
    const handle = await open(path, constants.O_WRONLY | constants.O_NOFOLLOW);
    try {
      await handle.write(bytes, 0, bytes.length, 0);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await utimes(path, atimeMs / 1000, mtimeMs / 1000);
  } catch (error) {
    throw fileError('put back', path, error);
  }
}

/** Makes the list of a file's pieces anew, where they are the recorded ones. @returns whether it was made */
export async function mendPieceList(path: string, entry: PointDisk, options: DigestOptions): Promise<boolean> {
  const { pieces } = entry;
  if (!pieces || isFault(await lookAtFile(path, entry))) return false;
  const digest = await digestByPieces(path, methodOfPieces(pieces), options);
  if (digest.pieces.sha256 !== pieces.sha256 || digest.pieces.bytes !== pieces.bytes) return false;
  await replacePieceList(path, digest);
  return true;
}
