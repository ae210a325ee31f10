import type { BigIntStatsFs } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import { QmpBackupError } from '../errors.js';
import { codeOf, fileError } from './file-errors.js';

/** How much a file system has left, and whether it is reached over a network. */
export interface FreeSpace {
  /** Bytes that this user may still use. */
  readonly free: number;
  /** Bytes of the whole file system. */
  readonly total: number;
  /** A network file system, or FUSE, behind which anything may be: it can hang for as long as its server does. */
  readonly network: boolean;
}

/** What a file system has to answer within, for a look that changes nothing, in milliseconds. */
export const ANSWER_MS = 10_000;

/** The file system did not answer in time. It may do so later; until then, whatever touches it hangs too. */
export class FileSystemHangs extends QmpBackupError {
  constructor(path: string, timeoutMs: number) {
    super('failed', `${path} does not answer: its file system said nothing for ${timeoutMs / 1000} s`, {
      hint: 'Nothing was changed. Look for the server or the network behind that mount, then run it again.',
    });
  }
}

/**
 * Asks the file system of `path`, or of the nearest folder above it that is there.
 *
 * A call on a hung mount never returns and keeps a thread of libuv's: what is given up here is only the wait for it.
 *
 * @throws FileSystemHangs after `timeoutMs`; the signal's reason; QmpBackupError as other file errors
 */
export async function freeSpace(
  path: string,
  { timeoutMs, signal }: { readonly timeoutMs: number; readonly signal?: AbortSignal },
): Promise<FreeSpace> {
  signal?.throwIfAborted();
  let timer: NodeJS.Timeout | undefined;
  let onAbort = (): void => undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new FileSystemHangs(path, timeoutMs)), timeoutMs);
    onAbort = () => reject(signal?.reason as Error);
  });
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    return await Promise.race([askFileSystem(path), late]);
  } finally {
    signal?.removeEventListener('abort', onAbort);
    clearTimeout(timer);
  }
}

/** As `freeSpace`, without a deadline. */
export async function askFileSystem(path: string): Promise<FreeSpace> {
  try {
    return readStats(await statfs(path, { bigint: true }));
  } catch (error) {
    if (codeOf(error) === 'ENOENT' && dirname(path) !== path) return askFileSystem(dirname(path));
    throw fileError('look at the file system of', path, error);
  }
}

export function readStats(stats: Pick<BigIntStatsFs, 'type' | 'bsize' | 'blocks' | 'bavail'>): FreeSpace {
  return {
    free: Number(stats.bavail * stats.bsize),
    total: Number(stats.blocks * stats.bsize),
    network: NETWORK.has(typeOf(stats)),
  };
}

/** `f_type` of statfs(2): 32 bits, which may come with a sign. */
export function typeOf({ type }: Pick<BigIntStatsFs, 'type'>): number {
  return Number(BigInt.asUintN(32, type));
}

const NETWORK: ReadonlySet<number> = new Set([
  0x6969, // nfs
  0x517b, // smb
  0xfe534d42, // smb2
  0xff534d42, // cifs
  0x01021997, // 9p
  0x00c36400, // ceph
  0x65735546, // fuse
  0x6a656a62, // virtiofs
  0x5346414f, // afs
  0x73757245, // coda
  0x564c, // ncp
  0x0bd00bd0, // lustre
  0x47504653, // gpfs
  0x19830326, // beegfs
  0x7461636f, // ocfs2
  0x01161970, // gfs2
]);
