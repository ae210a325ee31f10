import { mkdir, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';

/** Locks a target as a run on another host would. */
export async function lockFromElsewhere(target: string): Promise<void> {
  await mkdir(join(target, '.lock'));
  const owner = {
    ...{ what: 'backup of tcp:vm:4444', host: `not-${hostname()}`, machineId: 'f'.repeat(32), bootId: 'b', pid: 1 },
    ...{ pidNamespace: 'pid:[1]', processStartTime: '1', command: 'qmpbackup', since: '2026-11-21T12:00:00.000Z' },
  };
  await writeFile(join(target, '.lock', 'owner-0123456789abcdef.json'), JSON.stringify(owner));
}
