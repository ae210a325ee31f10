/** Backs a VM up, lists the points of the target, and restores the newest one: `backup SOCKET TARGET OUTPUT`. */
import { backup, type BackupEvent, list, QmpBackupError, restore } from 'qmpbackup';

const [socket, target, output] = process.argv.slice(2);
if (socket === undefined || target === undefined || output === undefined) throw new Error('SOCKET TARGET OUTPUT');

function report(event: BackupEvent): void {
  if (event.kind === 'warning') console.error(`warning: ${event.text}`);
  if (event.kind === 'progress') {
    for (const { disk, done, total } of event.disks) console.error(`${disk}: ${done} of ${total} bytes`);
  }
}

// Ends the run by itself as Ctrl-C would; the VM and the target are then as before.
const signal = AbortSignal.timeout(3_600_000);

try {
  const { point } = await backup({ socket, target, level: 'full' }, { report, signal });
  console.log(`${point?.disks.length ?? 0} disks, ${point?.consistency ?? 'none'}`);

  for (const { points } of (await list({ target })).targets) {
    for (const { point: each, notWhole } of points) console.log(`${each.number} ${each.createdAt} ${notWhole ?? 'ok'}`);
  }

  const { disks } = await restore({ target, output }, { signal });
  for (const { disk, path } of disks) console.log(`${disk} ${path}`);
} catch (error) {
  if (!(error instanceof QmpBackupError)) throw error;
  console.error(`${error.code}: ${error.message}`);
  if (error.hint !== undefined) console.error(error.hint);
  process.exitCode = 1;
}
