import { rm } from 'node:fs/promises';
import { fileError } from '../../host/file-errors.js';
import { inspectProcess, judgeOwner, thisProcess } from '../../host/lock-owner.js';
import { removeMarksOf } from '../../repository/open-mark.js';
import { endDaemon } from '../../storage-daemon/end-daemon.js';
import type { DomainRecord } from './domain-record.js';

/** Nobody leans on them any more: daemons, keeper, socket and mark go. Harmless where they are gone. */
export async function letGoOfDaemons(
  target: string,
  { owner, daemons }: NonNullable<DomainRecord['held']>,
  socket: string,
): Promise<void> {
  for (const each of daemons) await endDaemon(each);
  if (judgeOwner(owner, thisProcess('look'), inspectProcess) === 'alive') endProcess(owner.pid);
  await removeMarksOf(target, owner);
  try {
    await rm(socket, { force: true });
  } catch (error) {
    throw fileError('remove', socket, error);
  }
}

function endProcess(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    // It has ended just now.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
