import { setTimeout as sleep } from 'node:timers/promises';
import { domainJobId } from '../../../core/names.js';
import type { PlannedDisk } from '../../../core/plan.js';
import { QmpBackupError } from '../../../errors.js';
import { eachDisk } from '../../../flow/all-of.js';
import type { RunningBackup } from '../../../libvirt/backup-xml.js';
import { beginBackup, limitJob } from '../../../libvirt/backup.js';
import { jobOf, lastJobOf, runningBackup, settled } from '../../../libvirt/domain.js';
import { whyNotWhole } from '../../../libvirt/push-end.js';
import { allocatedIn } from '../../../qemu-tools/steps.js';
import { diskFolder } from '../../../repository/layout.js';
import type { BackupOptions } from '../../backup-options.js';
import type { Planned } from '../../backup-run.js';
import { type Copied, type StagedImage, writtenBy } from '../../copy-method.js';
import type { DomainCopy, DomainMethod, DomainRun } from '../domain-method.js';

/** `--method push`: libvirt's own push backup, by which QEMU writes into the staged images. */
export const PUSH: DomainMethod = {
  fleecing: {
    fleece: false,
    why: '--method push: before each guest write QEMU copies the old data to the target, so the guest waits for it',
  },
  tracks: 'checkpoint',
  qemuWrites: true,
  refuse,
  riskOf: ({ network }) =>
    network
      ? 'the target is on a network file system: should it hang, the guest hangs with it (--method pull keeps them apart)'
      : null,
  copyFor: pushCopy,
};

function pushCopy(run: DomainRun, planned: Planned): DomainCopy {
  const { virsh, uuid } = run.session;
  const disksOf = (staged: readonly StagedImage[]) =>
    staged.map((image) => ({
      target: image.planned.source.address,
      since: image.planned.copyBitmap,
      file: writtenBy(image),
    }));
  return {
    folders: [],
    begin: (staged, checkpoint) =>
      beginBackup(virsh, uuid, { mode: 'push', reuse: true, disks: disksOf(staged) }, checkpoint ?? undefined),
    adviceFor: (words) => (/Permission denied/.test(words) ? accessAdvice(run, planned) : null),
    finish: async (staged) => {
      const begun = performance.now();
      const { speedLimit } = run.options;
      if (speedLimit > 0) {
        for (const { planned } of staged) await limitJob(virsh, uuid, planned.source.address, speedLimit);
      }
      const { seenForMs } = await untilGone(run, staged, begun).finally(() => run.watch.jobsEnded());
      const last = await lastJobOf(virsh, uuid);
      // Nobody may read the images before QEMU has closed them.
      await settled(virsh, uuid);
      const durationMs = performance.now() - begun;
      const ended = last?.state === 'completed' ? staged : [];
      const images = await eachDisk(ended, async (image) => ({
        ...{ planned: image.planned, held: await allocatedIn(writtenBy(image), run), least: leastOf(image.planned) },
      }));
      const why = whyNotWhole(last, { seenForMs, images });
      if (why !== null) throw failed(why);
      const outcomes = images.map(({ planned: { job, copyBitmap, source }, held }): Copied => {
        return { job, copied: copyBitmap === null ? source.allocated : held, durationMs };
      });
      // Where one disk fails libvirt cancels the others.
      return { outcomes, failed: [] };
    },
    // `refuse` has seen to it that nobody asks.
    verify: () => Promise.resolve(),
    // It ended with the copy.
    end: () => Promise.resolve(),
  };
}

/** Milliseconds between two looks: an eighth of what it has taken so far, within these. */
const FIRST_POLL_MS = 20;
const LAST_POLL_MS = 1_000;

/** A full push writes all of the disk, also what is empty; a bitmap that was seen only grows until the begin. */
function leastOf({ source, copyBitmap }: PlannedDisk): number {
  if (copyBitmap === null) return source.virtualSize;
  const bitmap = source.bitmaps.find(({ name }) => name === copyBitmap);
  return bitmap === undefined || bitmap.uncounted ? 0 : bitmap.count;
}

function failed(why: string): QmpBackupError {
  return new QmpBackupError('failed', `the backup of the domain failed: ${why}`, {
    hint: 'No point was made and no change is lost: the next run copies it all.',
  });
}

/** Looks at the job, which is ours by its files, until it is no longer there; tells for how long it was seen. */
async function untilGone(
  run: DomainRun,
  staged: readonly StagedImage[],
  begun: number,
): Promise<{ readonly seenForMs: number }> {
  const { virsh, uuid } = run.session;
  for (let seenForMs = 0; ;) {
    run.signal.throwIfAborted();
    const asked = performance.now();
    const [backup, job] = await Promise.all([runningBackup(virsh, uuid), jobOf(virsh, uuid)]);
    if (backup === null) return { seenForMs };
    if (!isOf(backup, staged)) throw failed('another one runs in its place');
    seenForMs = asked - begun;
    const { bytes: done, total } = job?.copied ?? { bytes: 0, total: 0 };
    run.watch.sawJobs([{ id: domainJobId(run.attempt), status: 'running', current: done }]);
    run.context.report({ kind: 'progress', disks: [{ disk: 'all disks', done, total }] });
    const ms = Math.min(LAST_POLL_MS, Math.max(FIRST_POLL_MS, (performance.now() - begun) / 8));
    await sleep(ms, undefined, { signal: run.signal }).catch(() => run.signal.throwIfAborted());
  }
}

function isOf({ mode, disks }: RunningBackup, staged: readonly StagedImage[]): boolean {
  return mode === 'push' && staged.every((image) => disks.some(({ file }) => file === writtenBy(image)));
}

/** Folders that a pull has made belong to whoever ran it, and those that are there already are not given away. */
function accessAdvice({ target, session }: DomainRun, { plan }: Planned): string {
  const { owner } = session.domain;
  const folders = [target, ...plan.disks.map(({ disk }) => diskFolder(target, disk))].map((folder) => `'${folder}'`);
  const command = owner ? `: chown ${owner.uid}:${owner.gid} ${folders.join(' ')}` : '';
  return `The user that QEMU runs as needs access to every folder of the path${command}`;
}

/** What only a pull can keep, each with the reason. */
function refuse({ fleece, fleeceDir, verify, compress }: BackupOptions): void {
  const refused = [
    [
      verify !== null,
      '--verify',
      'libvirt shows nobody the instant that it pushes, so there is nothing to compare with',
    ],
    [compress, '--compress', 'libvirt cannot have QEMU compress what it pushes'],
    [fleece === 'always', '--fleece always', 'a push goes straight to the target'],
    [fleeceDir !== null, '--fleece-dir', 'a push has no scratch images'],
  ] as const;
  const found = refused.find(([given]) => given);
  if (!found) return;
  const [, option, why] = found;
  throw new QmpBackupError('usage', `${option} is not possible with --method push: ${why}`, {
    hint: 'Leave one of the two out: --method pull can do it.',
  });
}
