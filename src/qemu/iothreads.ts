import type { QmpClient } from '../qmp/client.js';
import { run } from '../qmp/commands.js';

/**
 * The first iothread of the VM, or null. Which disks are in one each device says in its own way (a virtio-blk disk itself,
 * a SCSI disk through its controller, newer ones a queue at a time), so one anywhere counts for all disks.
 */
export async function firstIothread(client: Pick<QmpClient, 'execute'>): Promise<string | null> {
  const [iothread] = await run(client, 'query-iothreads');
  return iothread?.id ?? null;
}
