import { sparseHeader, tarPadding } from '../../archive/tar-headers.js';
import { rangesOfFull, totalLength } from '../../core/extents.js';
import { IMAGE_CLUSTER } from '../../core/image-cluster.js';
import { NbdClient } from '../../nbd/client.js';
import { ALLOCATION } from '../../nbd/meta-contexts.js';
import { readInOrder, zerosOf } from '../../nbd/read-through.js';
import type { BackupRun } from '../backup-run.js';
import type { Copied, Copies } from '../copy-method.js';
import type { PulledDisk } from './pulled-disk.js';

/**
 * The disks of an instant as raw images with holes, members of a tar archive one after the other. Whoever takes it may be as slow as it
 * likes: what the guest overwrites meanwhile goes to scratch images, whose bound ends the run and not the guest's write.
 */
export async function streamInstant(
  run: BackupRun,
  disks: readonly PulledDisk[],
  archive: (bytes: Buffer) => Promise<void>,
): Promise<Copies> {
  const progress = new Map(disks.map(({ planned: { disk } }) => [disk, { disk, done: 0, total: 0 }]));
  const outcomes: Copied[] = [];
  for (const each of disks) {
    const onProgress = (done: number, total: number): void => {
      progress.set(each.planned.disk, { disk: each.planned.disk, done, total });
      run.context.report({ kind: 'progress', disks: [...progress.values()] });
    };
    outcomes.push(await streamDisk(run, each, { archive, onProgress }));
  }
  return { outcomes, failed: [] };
}

interface StreamOptions {
  readonly archive: (bytes: Buffer) => Promise<void>;
  readonly onProgress: (done: number, total: number) => void;
}

async function streamDisk(
  { signal, context }: BackupRun,
  { planned, source, byCluster = false }: PulledDisk,
  { archive, onProgress }: StreamOptions,
): Promise<Copied> {
  const begun = performance.now();
  const { disk, job } = planned;
  const size = planned.source.virtualSize;
  const client = await NbdClient.connect(source.address, {
    exportName: source.exportName,
    contexts: [ALLOCATION],
    signal,
  });
  try {
    const zero = await zerosOf(client, { byCluster });
    const spans = rangesOfFull(zero, { size, clusterSize: IMAGE_CLUSTER });
    const [copied, mtime] = [totalLength(spans), context.now().getTime() / 1000];
    await archive(sparseHeader({ path: `${disk}.raw`, size, spans, mode: 0o600, uid: 0, gid: 0, mtime }));
    let done = 0;
    for await (const chunk of readInOrder(client, spans, { byCluster })) {
      await archive(chunk);
      onProgress((done += chunk.length), copied);
    }
    await archive(tarPadding(copied));
    return { job, copied, durationMs: performance.now() - begun };
  } finally {
    await client.close();
  }
}
