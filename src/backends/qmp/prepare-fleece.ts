import { dirname } from 'node:path';
import { eachDisk } from '../../flow/all-of.js';
import type { SocketOwner } from '../../host/socket-owner.js';
import { createImage } from '../../host/empty-image.js';
import { openScratch } from '../../qemu/fleece.js';
import { addBitmaps, fleecedOf, type TransactionDisk } from '../../qemu/transaction.js';
import { limitScratch, makeScratch } from '../../repository/scratch.js';
import { watchScratch } from '../methods/watch-scratch.js';
import type { QmpRun } from './run.js';

/**
 * Fleecing as far as it can be done while the guest runs and before any freeze: the new bitmaps record, and the scratch
 * images are open.
 */
export async function prepareFleece(
  run: QmpRun,
  disks: readonly TransactionDisk[],
  qemuUser: SocketOwner | undefined,
): Promise<void> {
  const { client } = run.session;
  const fleeced = fleecedOf(disks);
  for (const folder of new Set(fleeced.map(({ fleece }) => dirname(fleece.scratch)))) {
    await makeScratch(folder, qemuUser);
    await watchScratch(run, folder);
  }
  await addBitmaps(client, disks);
  await eachDisk(fleeced, async (disk) => {
    const { scratch, limit } = disk.fleece;
    await createImage(scratch, { size: disk.planned.source.virtualSize });
    await limitScratch(scratch, limit, qemuUser);
    await openScratch(client, disk);
  });
}
