import { setTimeout as sleep } from 'node:timers/promises';
import { QmpBackupError } from '../../errors.js';
import type { QmpClient } from '../../qmp/client.js';
import { run } from '../../qmp/commands.js';
import { QmpConnectionLost } from '../../qmp/errors.js';
import type { BootRecord } from './boot-record.js';
import type { BootContext } from './request.js';
import { leansByHeader } from './stands-alone.js';

type Disk = BootRecord['disks'][number];

const POLL_MS = 250;
const PREFIX = 'qmpbackup-stream-';
/** States of a job that does nothing more. */
const ENDING = ['waiting', 'pending', 'aborting', 'concluded', 'null'];

/**
 * Copies into each overlay what it does not have, by a job of the VM's QEMU, which goes on when we end. What is done is
 * asked of QEMU every time, so that a run goes on wherever another was killed.
 */
export async function streamDisks(
  client: QmpClient,
  { disks }: BootRecord,
  rateLimit: number,
  { signal, report }: Pick<BootContext, 'signal' | 'report'>,
): Promise<void> {
  try {
    for (const [index, disk] of disks.entries()) {
      await streamDisk(client, disk, { job: `${PREFIX}${index}`, rateLimit, signal, report });
      await dropBelow(client, disk);
    }
    const leaning = await leaningDisks(client, disks);
    if (leaning.length === 0) return;
    throw new QmpBackupError('failed', `${leaning.join(', ')} still leans on the backup, although all was copied`);
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof QmpConnectionLost)) throw error;
    throw new QmpBackupError('failed', `the VM has ended before all was copied: ${error.message}`, {
      cause: error,
      hint: 'Run it again: it starts again from its overlays, and goes on with what they do not have.',
    });
  }
}

interface Streaming extends Pick<BootContext, 'signal' | 'report'> {
  readonly job: string;
  readonly rateLimit: number;
}

async function streamDisk(client: QmpClient, disk: Disk, streaming: Streaming): Promise<void> {
  const { job: id, rateLimit, signal, report } = streaming;
  const found = await jobOf(client, id);
  if (!found && !(await leansInQemu(client, disk))) return;
  if (!found) {
    await run(client, 'block-stream', { 'job-id': id, device: disk.top, speed: rateLimit, 'auto-dismiss': false });
  } else {
    await limitJob(client, id, rateLimit);
  }
  for (;;) {
    signal.throwIfAborted();
    const job = await jobOf(client, id);
    if (!job) break;
    const { 'current-progress': done, 'total-progress': total, status, error } = job;
    report({ kind: 'streaming', disk: disk.disk, done, total });
    if (status === 'concluded') {
      await run(client, 'job-dismiss', { id });
      if (error === undefined) break;
      throw new QmpBackupError('failed', `${disk.disk} could not be copied: ${error}`, {
        hint: 'The VM runs on, and needs the backup. Run it again with --stream.',
      });
    }
    await sleep(POLL_MS, undefined, { signal }).catch(() => signal.throwIfAborted());
  }
}

/** It may end meanwhile, and takes no speed then. */
async function limitJob(client: QmpClient, id: string, speed: number): Promise<void> {
  try {
    await run(client, 'block-job-set-speed', { device: id, speed });
  } catch (error) {
    const job = await jobOf(client, id);
    if (job && !ENDING.includes(job.status)) throw error;
  }
}

async function jobOf(client: QmpClient, id: string) {
  return (await run(client, 'query-jobs')).find((job) => job.id === id);
}

/** By the graph. A filter that a job has put above an image has an edge to it of another name. */
async function leansInQemu(client: QmpClient, { top }: Disk): Promise<boolean> {
  const { nodes, edges } = await run(client, 'x-debug-query-block-graph');
  const ids = nodes.filter(({ name }) => name === top).map(({ id }) => id);
  if (ids.length === 0) {
    throw new QmpBackupError('failed', `the VM has no disk ${top} any more`, {
      hint: 'It was taken out of the VM. Copy its overlay when the VM has ended: qemu-img convert',
    });
  }
  return edges.some(({ parent, name }) => ids.includes(parent) && name === 'backing');
}

/** Closes the connection to what was below a disk. */
async function dropBelow(client: QmpClient, { below }: Disk): Promise<void> {
  const { nodes } = await run(client, 'x-debug-query-block-graph');
  if (nodes.some(({ name }) => name === below)) await run(client, 'blockdev-del', { 'node-name': below });
}

/** Disks that need the backup, by the graph or by the header of their image. */
export async function leaningDisks(client: QmpClient, disks: readonly Disk[]): Promise<readonly string[]> {
  const { nodes } = await run(client, 'x-debug-query-block-graph');
  const leaning: string[] = [];
  for (const disk of disks) {
    const isOpen = nodes.some(({ name }) => name === disk.below);
    if (isOpen || (await leansInQemu(client, disk)) || (await leansByHeader(disk.image))) leaning.push(disk.disk);
  }
  return leaning;
}
