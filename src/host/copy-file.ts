import { realpathSync } from 'node:fs';
import { dirname } from 'node:path';
import { messageOf, QmpBackupError } from '../errors.js';
import { codeOf } from './file-errors.js';
import { isLocal, mountedType } from './mounts.js';
import { runProgram } from './program.js';

/** On these the copy of a file can share its blocks with it. */
const WITH_REFLINK: ReadonlySet<string | undefined> = new Set(['btrfs', 'xfs', 'bcachefs']);

export function canShareBlocks(folder: string): boolean {
  return isLocal(folder) && WITH_REFLINK.has(mountedType(realpathSync(folder)));
}

const CLONE_MS = 600_000;

/** Whether `to`, an empty file of the same folder, could be made to share all of its blocks with `from`; else it is as it was. */
export async function cloneFile(from: string, to: string, signal: AbortSignal): Promise<boolean> {
  if (!canShareBlocks(dirname(to))) return false;
  // Node's copyFile removes what it could not fill.
  const { exitCode } = await runProgram('cp', ['--reflink=always', from, to], { timeoutMs: CLONE_MS, signal });
  signal.throwIfAborted();
  return exitCode === 0;
}

const COPY_MS = 3_600_000;

/** Copies bytes of a file to the same place in `to`, which has its length and is empty there: zeros become holes. */
export async function copyRange(
  from: string,
  to: string,
  { offset, length }: { readonly offset: number; readonly length: number },
  signal: AbortSignal,
): Promise<void> {
  // Blocks that stay in the processor's cache between the read and the write.
  const args = [`if=${from}`, `of=${to}`, 'bs=256K', `skip=${offset}`, `seek=${offset}`, `count=${length}`];
  const how = ['iflag=skip_bytes,count_bytes', 'oflag=seek_bytes', 'conv=notrunc,sparse', 'status=none'];
  const { exitCode, stderr, failure } = await runProgram('dd', [...args, ...how], { timeoutMs: COPY_MS, signal });
  signal.throwIfAborted();
  if (exitCode === 0) return;
  const words = failure ? messageOf(failure) : stderr.trim();
  throw new QmpBackupError('failed', `${from} cannot be copied to ${to}: ${words}`, {
    ...(codeOf(failure) === 'ENOENT' ? { hint: 'Install dd: apt install coreutils' } : {}),
  });
}
