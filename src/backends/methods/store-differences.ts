import { rm } from 'node:fs/promises';
import { fileNode, qcow2Node } from '../../core/block-node.js';
import { fileError } from '../../host/file-errors.js';
import { type QemuNbd, startQemuNbd } from '../../qemu-tools/qemu-nbd.js';
import { temporaryFolder } from '../../repository/scratch-place.js';
import { makeScratch, removeScratch } from '../../repository/scratch.js';
import type { BackupRun, Planned } from '../backup-run.js';
import type { Copies, StagedImage } from '../copy-method.js';
import { chainBelow } from './chain-below.js';
import { pullDisks } from './pull-disks.js';
import type { PulledDisk } from './pulled-disk.js';

/**
 * Of images that QEMU has written whole, what differs from their parents goes into the images of the point, and the whole copies
 * go. Of all others nothing is done. As `pullDisks` where one fails.
 */
export async function storeDifferences(
  run: BackupRun,
  planned: Planned,
  staged: readonly StagedImage[],
  copies: Copies,
): Promise<Copies> {
  const copied = new Map(copies.outcomes.map((each) => [each.job, each]));
  const written = staged.flatMap((image) => {
    const below = chainBelow(run.target, planned, image.planned);
    const { whole } = image;
    return whole !== null && below !== null && copied.has(image.planned.job) ? [{ ...image, whole, below }] : [];
  });
  if (written.length === 0) return copies;
  const folder = temporaryFolder(run.attempt);
  const servers: QemuNbd[] = [];
  await makeScratch(folder, undefined);
  try {
    const disks: PulledDisk[] = [];
    for (const image of written) {
      const node = qcow2Node(fileNode(image.whole), null);
      const server = await startQemuNbd({ node, readOnly: true, folder, signal: run.signal });
      servers.push(server);
      const source = { address: { kind: 'unix' as const, path: server.socketPath }, exportName: '' };
      disks.push({ ...image, source, bitmap: null });
    }
    const beside = copies.outcomes.length - written.length;
    const { outcomes, failed } = await pullDisks(run, disks, folder, { beside });
    for (const { whole } of written) {
      await rm(whole).catch((error: unknown) => {
        throw fileError('remove', whole, error);
      });
    }
    const stored = new Map(outcomes.map((each) => [each.job, each]));
    const isLost = (job: string): boolean => failed.some(({ disk }) => jobOf(written, disk) === job);
    return {
      failed: [...copies.failed, ...failed],
      outcomes: copies.outcomes
        .filter(({ job }) => !isLost(job))
        .map((each) => {
          const made = stored.get(each.job);
          return made ? { ...made, durationMs: each.durationMs + made.durationMs } : each;
        }),
    };
  } finally {
    for (const server of servers) await server.kill();
    await removeScratch(folder);
  }
}

function jobOf(written: readonly StagedImage[], disk: string): string | undefined {
  return written.find(({ planned }) => planned.disk === disk)?.planned.job;
}
