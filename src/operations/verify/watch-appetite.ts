import { stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { formatBytes } from '../../core/bytes.js';
import { QmpBackupError } from '../../errors.js';
import { ANSWER_MS, freeSpace } from '../../host/free-space.js';

/** What a guest may say on its serial port before it has answered, in bytes. */
export const MOST_SERIAL = 64 * 1024 * 1024;

const POLL_MS = 100;

export interface Appetite {
  /** Overlays and the serial log are in it. */
  readonly folder: string;
  readonly serialLog: string;
  readonly signal: AbortSignal;
}

/**
 * What a guest writes is kept in a folder for temporary files, which it could fill. Resolves to why it is not waited for any
 * longer, in words; rejects where there is no more room, and with the reason of the signal.
 */
export async function watchAppetite({ folder, serialLog, signal }: Appetite): Promise<string> {
  for (;;) {
    const { size } = await stat(serialLog);
    if (size > MOST_SERIAL) return `it did not answer, and wrote ${formatBytes(size)} to its serial port`;
    await refuseShortSpace(folder, signal);
    await sleep(POLL_MS, undefined, { signal });
  }
}

/** What stays free for others: bytes, and as a part of small file systems. */
const [KEPT_FREE, KEPT_PART] = [512 * 1024 * 1024, 1 / 10];

/** @throws QmpBackupError `failed` where the disks of the machine have hardly any room left to be written to */
export async function refuseShortSpace(folder: string, signal: AbortSignal): Promise<void> {
  const { free, total } = await freeSpace(folder, { timeoutMs: ANSWER_MS, signal });
  if (free >= Math.min(KEPT_FREE, total * KEPT_PART)) return;
  const left = `${formatBytes(free)} of ${formatBytes(total)} are free there`;
  throw new QmpBackupError('failed', `there is no room for what the VM writes to its disks, in ${folder}: ${left}`, {
    hint: 'This says nothing of the point. Choose another file system for temporary files: TMPDIR=/var/tmp',
  });
}
