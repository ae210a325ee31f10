import { setTimeout as sleep } from 'node:timers/promises';
import { QmpBackupError } from '../../errors.js';
import { BLOCK_PULL, blockJobOf, limitBlockJob, startBlockPull } from '../../libvirt/block-jobs.js';
import { VirshError } from '../../libvirt/errors.js';
import { settled } from '../../libvirt/domain.js';
import type { Virsh } from '../../libvirt/virsh.js';
import type { DomainRecord } from './domain-record.js';
import { leaningDomainDisks } from './leaning-disks.js';
import type { BootContext } from './request.js';

const POLL_MS = 500;

type Disk = DomainRecord['disks'][number];

/**
 * Has libvirt copy into each overlay what it does not have. The jobs go on when we end, and what is done is asked each time, so that a
 * run goes on wherever another was killed.
 */
export async function streamDomain(
  virsh: Virsh,
  record: DomainRecord,
  rateLimit: number,
  context: Pick<BootContext, 'signal' | 'report'>,
): Promise<void> {
  const { uuid } = record.domain;
  try {
    for (const disk of record.disks) await streamDisk({ virsh, uuid, record, rateLimit, ...context }, disk);
  } catch (error) {
    context.signal.throwIfAborted();
    if (!(error instanceof VirshError) || error.reason !== 'not-running') throw error;
    throw new QmpBackupError('failed', `the domain has ended before all was copied: ${error.words}`, {
      cause: error,
      hint: 'Run it again: it starts again from its overlays, and goes on with what they do not have.',
    });
  }
}

interface Streaming extends Pick<BootContext, 'signal' | 'report'> {
  readonly virsh: Virsh;
  readonly uuid: string;
  readonly record: DomainRecord;
  readonly rateLimit: number;
}

async function streamDisk(streaming: Streaming, { disk, target }: Disk): Promise<void> {
  const { virsh, uuid, record, rateLimit, signal, report } = streaming;
  const leans = async (): Promise<boolean> => (await leaningDomainDisks(virsh, record)).includes(disk);
  const found = await blockJobOf(virsh, uuid, target);
  if (found && found.type !== BLOCK_PULL) {
    throw new QmpBackupError('failed', `${disk} has another job, and cannot be copied now: ${found.type}`, {
      hint: 'Wait until that has ended, then run it again with --stream.',
    });
  }
  if (!found && !(await leans())) return;
  if (found) await limitBlockJob(virsh, uuid, target, rateLimit);
  else await startBlockPull(virsh, uuid, target, rateLimit);
  for (;;) {
    signal.throwIfAborted();
    const job = await blockJobOf(virsh, uuid, target);
    if (!job) break;
    report({ kind: 'streaming', disk, done: job.done, total: job.total });
    await sleep(POLL_MS, undefined, { signal }).catch(() => signal.throwIfAborted());
  }
  // libvirt may be about to write down what QEMU has told.
  await settled(virsh, uuid);
  if (!(await leans())) return;
  throw new QmpBackupError('failed', `${disk} was not copied to its end: its job has ended before`, {
    hint: `QEMU may have said why in libvirt's log of the domain. The domain runs on, and needs the backup. Run it again with --stream.`,
  });
}
