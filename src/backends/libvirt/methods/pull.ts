import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { scratchFolderName } from '../../../core/names.js';
import { nbdNode } from '../../../core/block-node.js';
import type { PlannedDisk } from '../../../core/plan.js';
import { warning } from '../../../core/warning.js';
import { messageOf, QmpBackupError } from '../../../errors.js';
import { startPullGuard } from '../../../guards/pull-guard.js';
import { exportOf, type PullDisk, type RunningBackup } from '../../../libvirt/backup-xml.js';
import { beginBackup, endBackup } from '../../../libvirt/backup.js';
import { jobOf, runningBackup } from '../../../libvirt/domain.js';
import { endPullAt } from '../../../libvirt/end-pull.js';
import { DomainNotFound } from '../../../libvirt/errors.js';
import type { DomainJobInfo } from '../../../libvirt/job-info.js';
import { endOf } from '../../../libvirt/lifecycle.js';
import { readInFull } from '../../../qemu-tools/image-view.js';
import { scratchPlace, temporaryFolder } from '../../../repository/scratch-place.js';
import { scratchImage } from '../../../repository/scratch.js';
import type { Planned } from '../../backup-run.js';
import type { StagedImage } from '../../copy-method.js';
import { chainBelow } from '../../methods/chain-below.js';
import { compareWithInstant } from '../../methods/compare-with-instant.js';
import { pullDisks } from '../../methods/pull-disks.js';
import type { PulledDisk } from '../../methods/pulled-disk.js';
import type { DomainCopy, DomainMethod, DomainRun } from '../domain-method.js';

/** libvirt serves the instant over NBD and keeps what the guest overwrites in scratch images; our own hands write. */
export const PULL: DomainMethod = {
  fleecing: { fleece: true, why: 'libvirt keeps what the guest overwrites in scratch images while it is pulled' },
  tracks: 'checkpoint',
  qemuWrites: false,
  refuse: ({ fleece }) => {
    // Without scratch images libvirt cannot keep an instant.
    if (fleece !== 'never') return;
    throw new QmpBackupError('usage', '--fleece never is not possible for a libvirt domain', {
      hint: 'A pull backup keeps what the guest overwrites in scratch images; name their folder with --fleece-dir.',
    });
  },
  riskOf: () => null,
  copyFor: pullCopy,
};

function pullCopy(run: DomainRun, planned: Planned): DomainCopy {
  const places = planned.plan.disks.map((disk) => scratchFolder(run, disk));
  const pullOf = ({ planned: disk }: StagedImage): PullDisk => {
    const index = planned.plan.disks.indexOf(disk);
    return {
      target: disk.source.address,
      since: disk.copyBitmap,
      scratch: scratchImage(places[index] ?? '', index),
    };
  };
  const pulled = (image: StagedImage): PulledDisk => {
    const { exportName, dirtyContext } = exportOf(pullOf(image));
    const source = { address: { kind: 'unix' as const, path: socketOf(run) }, exportName };
    const below = chainBelow(run.target, planned, image.planned);
    return { ...image, source, below, bitmap: dirtyContext?.replace(/^qemu:dirty-bitmap:/, '') ?? null };
  };
  return {
    folders: [...new Set([socketFolder(run), ...places])],
    begin: (staged, checkpoint) =>
      beginBackup(
        run.session.virsh,
        run.session.uuid,
        { mode: 'pull', socket: socketOf(run), disks: staged.map(pullOf) },
        checkpoint ?? undefined,
      ),
    adviceFor: () => null,
    finish: (staged) => toldByLibvirt(run, () => pullDisks(run, staged.map(pulled), socketFolder(run))),
    verify: (images) =>
      toldByLibvirt(run, async () => {
        for (const image of images) {
          await compareWithInstant(run, planned, image, readInFull(nbdNode(pulled(image).source)));
        }
      }),
    end: async () => {
      await requireOwnJob(run);
      await endBackup(run.session.virsh, run.session.uuid, { sleep });
    },
    giveUp: async () => {
      await endPullAt(run.session.virsh, run.session.uuid, socketOf(run));
    },
    guard: (resumes) => {
      const { connect, uuid } = run.session;
      const warn = (text: string): void => run.warn(warning('no-guard', text));
      return startPullGuard({ connect, uuid, socket: socketOf(run), resumes }, { warn });
    },
  };
}

function scratchFolder({ options, attempt }: DomainRun, { source }: PlannedDisk): string {
  return join(scratchPlace(options.fleeceDir, source), scratchFolderName(attempt));
}

/** The path of a unix socket must be short. */
function socketFolder({ attempt }: DomainRun): string {
  return temporaryFolder(attempt);
}

function socketOf(run: DomainRun): string {
  return join(socketFolder(run), 'nbd.sock');
}

/**
 * A connection that ends in the middle says nothing of why. Where the job or its domain has ended, that is told; what
 * libvirt cannot tell then keeps the words of whoever met it.
 */
async function toldByLibvirt<T>(run: DomainRun, pull: () => Promise<T>): Promise<T> {
  try {
    return await pull();
  } catch (error) {
    if (run.signal.aborted) throw error;
    const why = await whyJobEnded(run).catch((failure: unknown) => {
      if (failure instanceof DomainNotFound) throw failure;
      return null;
    });
    throw why === null ? error : new QmpBackupError('failed', `${why}: ${messageOf(error)}`, { ...LOST, cause: error });
  }
}

/**
 * After a job was cancelled its export may stay up and serve the disk as it is now, silently: so a pull counts only
 * where the job is still there and ours, without an error.
 */
async function requireOwnJob(run: DomainRun): Promise<void> {
  const why = await whyJobEnded(run);
  if (why !== null) throw new QmpBackupError('failed', `${why}, before all was read`, LOST);
}

const LOST = { hint: 'No point was made and no change is lost: the next run copies it all.' } as const;

/** In words; null where our job goes on without an error. */
async function whyJobEnded(run: DomainRun): Promise<string | null> {
  const { virsh, uuid } = run.session;
  let [backup, job] = await lookAtJob(run);
  // One that is being ended is described for some milliseconds more.
  for (let looks = 1; isAt(backup, run) && job === null && looks < MOST_LOOKS; looks += 1) {
    await sleep(LOOK_MS);
    [backup, job] = await lookAtJob(run);
  }
  const ours = isAt(backup, run);
  if (ours && job?.state === 'running' && job.error === null) return null;
  const end = await endOf(virsh, uuid);
  if (end !== null) return `the domain ended while it was backed up (${end})`;
  if (job?.error) return `the backup job of the domain failed: ${job.error}`;
  if (!backup) return 'somebody ended the backup job of the domain';
  return ours
    ? 'the backup job of the domain has ended'
    : 'another backup job of the domain has taken the place of ours';
}

/** Milliseconds between two looks, and how many there are. */
const LOOK_MS = 20;
const MOST_LOOKS = 50;

function lookAtJob({ session: { virsh, uuid } }: DomainRun): Promise<[RunningBackup | null, DomainJobInfo | null]> {
  return Promise.all([runningBackup(virsh, uuid), jobOf(virsh, uuid)]);
}

function isAt(backup: RunningBackup | null, run: DomainRun): boolean {
  return backup?.socket === socketOf(run);
}
