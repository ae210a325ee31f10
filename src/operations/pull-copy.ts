import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { scratchFolderName } from '../domain/names.js';
import type { NbdSource } from '../domain/nbd-address.js';
import type { PlannedDisk } from '../domain/plan.js';
import { messageOf, QmpBackupError } from '../errors.js';
import { endBackup } from '../libvirt/backup.js';
import { exportOf, type PullDisk } from '../libvirt/backup-xml.js';
import { jobOf, runningBackup } from '../libvirt/domain.js';
import { scratchImage } from '../repository/scratch.js';
import type { Copied, CopyMethod, DomainCopy, DomainRun } from './domain-copy.js';
import { scratchPlace, TEMPORARY } from './domain-scratch.js';
import { eachDisk } from './each-disk.js';
import type { Planned } from './plan-run.js';
import { pullFull, pullIncrement } from './pull-image.js';
import type { StagedImage } from './seal-point.js';
import { compareWithInstant } from './verify-point.js';

/** libvirt serves the instant over NBD and keeps what the guest overwrites in scratch images; our own hands write. */
export const PULL: CopyMethod = {
  fleecing: { fleece: true, why: 'libvirt keeps what the guest overwrites in scratch images while it is pulled' },
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
      target: disk.source.node,
      since: disk.copyBitmap,
      scratch: scratchImage(places[index] ?? '', index),
    };
  };
  return {
    folders: [...new Set([socketFolder(run), ...places])],
    backup: (staged) => ({ mode: 'pull', socket: socketOf(run), disks: staged.map(pullOf) }),
    adviceFor: () => null,
    finish: async (staged) => {
      const disks = staged.map((image) => ({ ...image, pull: pullOf(image) }));
      const outcomes = await pullAll(run, disks);
      if (run.options.verify !== null) {
        for (const disk of disks) await compareWithInstant(run, planned, disk, sourceOf(run, disk));
      }
      await requireOwnJob(run);
      await endBackup(run.session.virsh, run.session.uuid, { sleep });
      return outcomes;
    },
  };
}

interface PulledDisk extends StagedImage {
  readonly pull: PullDisk;
}

function scratchFolder({ options, attempt }: DomainRun, { source }: PlannedDisk): string {
  return join(scratchPlace(options.fleeceDir, source), scratchFolderName(attempt));
}

/** The path of a unix socket must be short. */
function socketFolder({ attempt }: DomainRun): string {
  return join(TEMPORARY, scratchFolderName(attempt));
}

function socketOf(run: DomainRun): string {
  return join(socketFolder(run), 'nbd.sock');
}

/** All disks at once. Throws at the first that fails; the others have ended by then. */
async function pullAll(run: DomainRun, staged: readonly PulledDisk[]): Promise<readonly Copied[]> {
  const stop = new AbortController();
  const signal = AbortSignal.any([run.signal, stop.signal]);
  const progress = new Map(staged.map(({ planned }) => [planned.disk, { disk: planned.disk, done: 0, total: 0 }]));
  const timer = setInterval(
    () => {
      const disks = [...progress.values()];
      run.watch.sawJobs(
        disks.map(({ disk, done, total }) => ({
          ...{ id: disk, type: 'backup', status: 'running', current: done, total, error: null },
        })),
      );
      run.context.report({ kind: 'progress', disks });
    },
    Math.min(run.options.progressIntervalMs, 1_000),
  );
  try {
    return await eachDisk(staged, async (disk) => {
      try {
        return await pullOne(run, disk, signal, (done, total) => {
          progress.set(disk.planned.disk, { disk: disk.planned.disk, done, total });
        });
      } catch (error) {
        stop.abort(error);
        throw error;
      }
    });
  } finally {
    clearInterval(timer);
    run.watch.jobsEnded();
  }
}

function sourceOf(run: DomainRun, { pull }: Pick<PulledDisk, 'pull'>): NbdSource {
  return { address: { kind: 'unix', path: socketOf(run) }, exportName: exportOf(pull).exportName };
}

async function pullOne(
  run: DomainRun,
  { planned, path, pull }: PulledDisk,
  signal: AbortSignal,
  onProgress: (done: number, total: number) => void,
): Promise<Copied> {
  const { compress, speedLimit: rateLimit } = run.options;
  const begun = performance.now();
  const { dirtyContext } = exportOf(pull);
  const source = sourceOf(run, { pull });
  const common = { signal, rateLimit, compress };
  let copied = planned.source.allocated;
  try {
    if (dirtyContext === null) {
      const total = planned.source.virtualSize;
      await pullFull(source, path, { ...common, onProgress: (percent) => onProgress((percent * total) / 100, total) });
    } else {
      const bitmap = dirtyContext.replace(/^qemu:dirty-bitmap:/, '');
      const done = await pullIncrement(
        { source, bitmap, target: path },
        { ...common, folder: socketFolder(run), onProgress: ({ done: bytes, total }) => onProgress(bytes, total) },
      );
      copied = done.total;
    }
  } catch (error) {
    signal.throwIfAborted();
    throw new QmpBackupError('failed', `the backup of ${planned.disk} failed: ${messageOf(error)}`, {
      cause: error,
      hint: 'No point was made and no change is lost: the next run copies it all.',
    });
  }
  return { job: planned.job, copied, error: null, durationMs: performance.now() - begun };
}

/**
 * After a job was cancelled its export may stay up and serve the disk as it is now, silently: so a pull counts only
 * where the job is still there and ours, without an error.
 */
async function requireOwnJob(run: DomainRun): Promise<void> {
  const { virsh, uuid } = run.session;
  const [backup, job] = await Promise.all([runningBackup(virsh, uuid), jobOf(virsh, uuid)]);
  if (backup?.socket === socketOf(run) && job?.state === 'running' && job.error === null) return;
  const why = job?.error ?? (backup ? 'another one runs in its place' : 'somebody ended it');
  throw new QmpBackupError('failed', `the backup job of the domain did not last until all was read: ${why}`, {
    hint: 'No point was made and no change is lost: the next run copies it all.',
  });
}
