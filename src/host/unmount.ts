import { lstat } from 'node:fs/promises';
import { QmpBackupError } from '../errors.js';
import { codeOf } from './file-errors.js';
import { runProgram } from './program.js';

const TIMEOUT_MS = 30_000;

/** Whether the program that served what is mounted there is gone. To be asked only where no such program can hang. */
export async function isDeadMount(point: string): Promise<boolean> {
  try {
    await lstat(point);
    return false;
  } catch (error) {
    return codeOf(error) === 'ENOTCONN';
  }
}

/**
 * Takes away what a FUSE program has mounted, also where it is dead, or somebody has it open.
 *
 * @throws QmpBackupError `failed`
 */
export async function unmountFuse(point: string): Promise<void> {
  const byRoot = process.getuid?.() === 0;
  const [name, ...args] = byRoot ? ['umount', '-l', '--', point] : ['fusermount3', '-u', '-z', '--', point];
  const { exitCode, stderr, failure } = await runProgram(name, args, { timeoutMs: TIMEOUT_MS });
  if (exitCode === 0) return;
  const words = failure?.message ?? (stderr.trim() || `${name} ended with exit code ${exitCode}`);
  throw new QmpBackupError('failed', `${point} cannot be unmounted: ${words}`, {
    hint: failure ? FUSE3_HINT : `Unmount it by hand: umount -l '${point}'`,
  });
}

export const FUSE3_HINT = 'A user other than root needs the program fusermount3 for that: apt install fuse3';
