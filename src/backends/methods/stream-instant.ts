import { rangesOfFull, totalLength } from '../../core/extents.js';
import { IMAGE_CLUSTER } from '../../core/image-cluster.js';
import { unlessAborted } from '../../flow/aborted.js';
import { NbdClient } from '../../nbd/client.js';
import { ALLOCATION } from '../../nbd/meta-contexts.js';
import { paceOf } from '../../nbd/pace.js';
import { OVERWRITTEN_CONTEXTS, READERS, readInOrder, zerosOf } from '../../nbd/read-through.js';
import type { BackupRun } from '../backup-run.js';
import type { Copied, Copies } from '../copy-method.js';
import type { RawSink } from '../raw-sink.js';
import type { PulledDisk } from './pulled-disk.js';

/**
 * The disks of an instant as raw images with holes, one after the other. Whoever takes them may be as slow as it
 * likes: what the guest overwrites meanwhile goes to scratch images, whose bound ends the run and not the guest's write.
 */
export async function streamInstant(run: BackupRun, disks: readonly PulledDisk[], sink: RawSink): Promise<Copies> {
  const progress = new Map(disks.map(({ planned: { disk } }) => [disk, { disk, done: 0, total: 0 }]));
  const outcomes: Copied[] = [];
  for (const each of disks) {
    const onProgress = (done: number, total: number): void => {
      progress.set(each.planned.disk, { disk: each.planned.disk, done, total });
      run.context.report({ kind: 'progress', disks: [...progress.values()] });
    };
    outcomes.push(await streamDisk(run, each, { sink, onProgress }));
  }
  return { outcomes, failed: [] };
}

interface StreamOptions {
  readonly sink: RawSink;
  readonly onProgress: (done: number, total: number) => void;
}

async function streamDisk(
  { signal, options }: BackupRun,
  { planned, source, overwritten: overwrittenName = null }: PulledDisk,
  { sink, onProgress }: StreamOptions,
): Promise<Copied> {
  const begun = performance.now();
  const { disk, job } = planned;
  const size = planned.source.virtualSize;
  const clients: NbdClient[] = [];
  const connect = async (exportName: string, contexts: readonly string[]): Promise<NbdClient> => {
    const client = await NbdClient.connect(source.address, { exportName, contexts, signal });
    clients.push(client);
    return client;
  };
  try {
    const client = await connect(source.exportName, [ALLOCATION]);
    const overwritten = overwrittenName === null ? null : await connect(overwrittenName, OVERWRITTEN_CONTEXTS);
    const readers = [client];
    while (readers.length < READERS) readers.push(await connect(source.exportName, []));
    const zero = await zerosOf(client, { overwritten });
    const spans = rangesOfFull(zero, { size, clusterSize: IMAGE_CLUSTER });
    const copied = totalLength(spans);
    // Whoever takes it may hang, or take nothing.
    const raw = await unlessAborted(signal, sink.disk(disk, { size, spans }));
    let done = 0;
    const pace = paceOf(options.speedLimit);
    for await (const { offset, bytes } of readInOrder(readers, spans, { overwritten })) {
      await pace(bytes.length, signal);
      await unlessAborted(signal, raw.write(offset, bytes));
      onProgress((done += bytes.length), copied);
    }
    await unlessAborted(signal, raw.end());
    return { job, copied, durationMs: performance.now() - begun };
  } catch (error) {
    // Not that the connection was given up, but why.
    signal.throwIfAborted();
    throw error;
  } finally {
    for (const client of clients) await client.close();
  }
}
