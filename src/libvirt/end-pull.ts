import { setTimeout as sleep } from 'node:timers/promises';
import { endBackup } from './backup.js';
import { runningBackup } from './domain.js';
import type { Virsh } from './virsh.js';

/**
 * Ends the pull that is served at `socket`; resolves when its NBD server and scratch images are gone. `another`: the
 * domain has a backup job of somebody else, or of a later run.
 */
export async function endPullAt(virsh: Virsh, uuid: string, socket: string): Promise<'ended' | 'absent' | 'another'> {
  const backup = await runningBackup(virsh, uuid);
  if (backup === null) return 'absent';
  if (backup.socket !== socket) return 'another';
  await endBackup(virsh, uuid, { sleep });
  return 'ended';
}
