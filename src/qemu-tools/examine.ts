import { constants, type Stats } from 'node:fs';
import { lstat, open } from 'node:fs/promises';
import { join } from 'node:path';
import { type LinkFault, linkFault } from '../core/header-link.js';
import { parseQcow2Header, QCOW2_HEADER_BYTES, type Qcow2Header } from '../core/qcow2-header.js';
import { messageOf, QmpBackupError } from '../errors.js';

/**
 * Looks at an image of a backup folder before any QEMU program does. A backup may come from anywhere: an image that is
 * a link, or whose header names files outside, must not make qemu-img read or write them.
 */
export interface Expectation {
  readonly file: string;
  /** Backing links that are in order; null is none. */
  readonly links: readonly (string | null)[];
  /** For images of other tools: see `linkFault`. */
  readonly loose?: boolean;
}

/**
 * The header of `folder`/`file`, found to be an ordinary qcow2 image that names no other file than allowed.
 *
 * @throws QmpBackupError `unsafe`: missing, a symbolic link or no regular file, a data file, another backing link or
 * format; `damaged`: no qcow2 header. Both name the file.
 */
export async function examine(folder: string, { file, links, loose = false }: Expectation): Promise<Qcow2Header> {
  const header = await readHeader(join(folder, file), file);
  const fault = linkFault(header, links, { loose });
  if (fault) throw refused(`${file} ${inWords(fault, links)}`);
  return header;
}

/** The header of any qcow2 file that is a regular file and no link; `name` is for messages. */
export async function readHeader(path: string, name: string): Promise<Qcow2Header> {
  const bytes = await beginning(path, name);
  try {
    return parseQcow2Header(bytes);
  } catch (error) {
    throw new QmpBackupError('damaged', `${name} cannot be used: ${messageOf(error)}`, { cause: error });
  }
}

function inWords({ kind, name }: LinkFault, links: readonly (string | null)[]): string {
  if (kind === 'data-file') return `keeps its data in another file (${name ?? 'unnamed'})`;
  if (kind === 'format') return `builds on an image of format ${name ?? 'unknown'}, expected is qcow2`;
  return `builds on ${name ?? 'nothing'}, expected is ${links.map((each) => each ?? 'nothing').join(' or ')}`;
}

/** The first bytes of such a file, as many as its header may take. */
export async function beginning(path: string, name: string): Promise<Uint8Array> {
  refuseUnlessFile(await look(() => lstat(path), name), name);
  // The flags hold also when the file is swapped for a link or a pipe between the look and this.
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  const handle = await look(() => open(path, flags), name);
  try {
    refuseUnlessFile(await handle.stat(), name);
    const buffer = new Uint8Array(QCOW2_HEADER_BYTES);
    let length = 0;
    for (;;) {
      const { bytesRead } = await handle.read(buffer, length, buffer.length - length, length);
      length += bytesRead;
      if (bytesRead === 0 || length === buffer.length) return buffer.subarray(0, length);
    }
  } finally {
    await handle.close();
  }
}

async function look<T>(step: () => Promise<T>, name: string): Promise<T> {
  try {
    return await step();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') throw refused(`${name} is missing`, error);
    if (code === 'ELOOP') throw refused(`${name} is a symbolic link`, error);
    throw new QmpBackupError('failed', `${name} cannot be read: ${messageOf(error)}`, { cause: error });
  }
}

function refuseUnlessFile(stats: Stats, name: string): void {
  if (stats.isSymbolicLink()) throw refused(`${name} is a symbolic link`);
  if (!stats.isFile()) throw refused(`${name} is not a regular file`);
}

function refused(why: string, cause?: unknown): QmpBackupError {
  return new QmpBackupError('unsafe', why, {
    cause,
    hint: 'The backup was altered, is incomplete, or was not made by this tool. Nothing of it was opened or changed.',
  });
}
