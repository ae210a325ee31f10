import { setTimeout as sleep } from 'node:timers/promises';
import { type Warning, warning } from '../../core/warning.js';
import type { RunningBackup } from '../../libvirt/backup-xml.js';
import { endBackup } from '../../libvirt/backup.js';
import { runningBackup } from '../../libvirt/domain.js';
import { type DomainSession, isForeignBackup } from './session.js';

/**
 * `--kill-job`: ends the backup job of somebody else that was there when the domain was looked at, unless it has ended
 * since. Returns what was done, in words.
 */
export async function endForeignJob({ virsh, uuid, domain, state }: DomainSession): Promise<readonly Warning[]> {
  if (!isForeignBackup({ domain, state })) return [];
  const now = await runningBackup(virsh, uuid);
  // Another one by now is not what the user was asked about.
  if (now === null || JSON.stringify(now) !== JSON.stringify(domain.backup)) return [];
  await endBackup(virsh, uuid, { sleep });
  return [warning('foreign-job-ended', `--kill-job: ended ${inWords(now)}, which somebody else had begun`)];
}

/** `a pull backup of vda, vdb (/run/their.sock)` */
function inWords({ mode, socket, disks }: RunningBackup): string {
  const places = [socket, ...disks.map(({ file }) => file)].filter((place) => place !== null);
  const where = places.length > 0 ? ` (${places.join(', ')})` : '';
  return `a ${mode} backup of ${disks.map(({ target }) => target).join(', ')}${where}`;
}
