import { dirname, isAbsolute, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { CATALOG_SCHEMA, type Journal } from '../domain/catalog.js';
import type { VmState } from '../domain/disk.js';
import { checkpointName, domainJobId, scratchFolderName } from '../domain/names.js';
import type { NbdSource } from '../domain/nbd-address.js';
import type { PlannedDisk } from '../domain/plan.js';
import { messageOf, QmpBackupError } from '../errors.js';
import { beginBackup, endBackup } from '../libvirt/backup.js';
import { exportOf, type PullDisk } from '../libvirt/backup-xml.js';
import type { DomainFreezeGuard } from '../libvirt/freeze-guard.js';
import { inspectDomain, jobOf, runningBackup } from '../libvirt/domain.js';
import { LibvirtUnreachable, VirshError, VirshTimeout } from '../libvirt/errors.js';
import { writeJournal } from '../repository/journal-file.js';
import { makeScratch, removeScratch, scratchImage } from '../repository/scratch.js';
import type { Staging } from '../repository/staging.js';
import type { BackupRun } from './backup-run.js';
import { repairDomain } from './domain-repair.js';
import { type DomainSession, vmStateOf } from './domain-session.js';
import { eachDisk } from './each-disk.js';
import { takeInstant } from './instant.js';
import { readTarget } from './open-target.js';
import type { Planned } from './plan-run.js';
import { watchScratch } from './prepare-fleece.js';
import { pullFull, pullIncrement } from './pull-image.js';
import { LIBVIRT } from './repair.js';
import type { Done } from './route.js';
import { sealPoint, type StagedImage } from './seal-point.js';
import { unfrozen } from './start-guards.js';
import { stageImage } from './stage-point.js';
import { compareWithInstant } from './verify-point.js';

export interface DomainRun extends BackupRun {
  readonly session: DomainSession;
}

interface StagedDisk extends StagedImage {
  readonly pull: PullDisk;
}

/** Journal, staging, [freeze] backup-begin with its checkpoint [thaw], pull, end of the job, seal. */
export async function attemptDomainPoint(
  run: DomainRun,
  planned: Planned,
  staging: Staging,
  vm: VmState,
): Promise<Done> {
  const { options, context } = run;
  const { virsh, uuid } = run.session;
  run.signal.throwIfAborted();
  const guard = await startGuard(run, vm);
  try {
    const places = planned.plan.disks.map((disk) => scratchFolder(run, disk));
    const folders = [...new Set([socketFolder(run), ...places])];
    const journal = journalOf(run, planned, folders);
    await writeJournal(run.target, journal);
    const staged = await stage(run, planned, staging, places);
    for (const folder of folders) {
      await makeScratch(folder, run.session.domain.owner ?? undefined);
      await watchScratch(run, folder);
    }
    run.signal.throwIfAborted();
    if (guard) await writeJournal(run.target, { ...journal, freezes: `${LIBVIRT}${uuid}` });
    let transactionMs = 0;
    const instant = await takeInstant(
      guard,
      {
        now: context.now,
        requireFreeze: options.quiesce === 'require',
        signal: run.signal,
        warn: run.warn,
        settle: (error) => Promise.resolve(error),
      },
      async () => {
        const begun = performance.now();
        await begin(run, planned, staged);
        transactionMs = performance.now() - begun;
      },
    );
    await guard?.release();
    if (guard) await writeJournal(run.target, journal);
    const taken = { ...instant, transactionMs, pausedMs: null };
    context.report({ kind: 'started', instant: taken });
    const outcomes = await pullAll(run, staged);
    if (options.verify !== null) {
      for (const disk of staged) await compareWithInstant(run, planned, disk, sourceOf(run, disk));
    }
    await requireOwnJob(run);
    await endBackup(virsh, uuid, { sleep });
    for (const folder of folders) await removeScratch(folder);
    context.report({ kind: 'sealing' });
    const sealed = await sealPoint(run, planned, staging, staged, { vm, instant: taken, outcomes });
    return { ...sealed, freeze: instant.freeze, pausedMs: null, transactionMs };
  } catch (error) {
    await guard?.release();
    throw await undone(run, vm, error);
  }
}

/** The guard for the freeze, ready; null where nothing is frozen. */
async function startGuard(run: DomainRun, vm: VmState): Promise<DomainFreezeGuard | null> {
  const { quiesce, freezeTimeoutMs, freezeLimitMs } = run.options;
  const { uuid, connect, domain } = run.session;
  if (quiesce === 'no') return null;
  if (!vm.running) return unfrozen(run, `the domain is not running (${vm.status})`);
  if (domain.agent === 'absent') return unfrozen(run, 'the domain has no channel for a guest agent');
  const { DomainFreezeGuard } = await import('../libvirt/freeze-guard.js');
  const limits = { freezeTimeoutMs, freezeLimitMs, thawTimeoutMs: THAW_MS };
  return DomainFreezeGuard.start({ connect, uuid, name: domain.name, ...limits });
}

const THAW_MS = 60_000;

function journalOf(run: DomainRun, { plan }: Planned, scratch: readonly string[]): Journal {
  return {
    schema: CATALOG_SCHEMA,
    attempt: run.attempt,
    startedAt: run.context.now().toISOString(),
    what: `backup --level ${run.options.level}`,
    monitor: `libvirt domain ${run.session.uuid}`,
    vm: run.identity,
    disks: plan.disks.map(({ disk, newBitmap, file }) => ({
      ...{ disk, bitmap: newBitmap?.name ?? null, file },
      job: domainJobId(run.attempt),
    })),
    madeFolders: plan.disks.map(({ disk }) => disk),
    freezes: null,
    stops: false,
    scratch: [...scratch],
    servesNbd: false,
  };
}

/** Beside the disk's image, where QEMU may write; for disks that are no files in a place for large temporary files. */
function scratchFolder({ options, attempt }: DomainRun, { source }: PlannedDisk): string {
  const place =
    options.fleeceDir === null
      ? isAbsolute(source.file)
        ? dirname(source.file)
        : '/var/tmp'
      : resolve(options.fleeceDir);
  return join(place.startsWith('/dev') ? '/var/tmp' : place, scratchFolderName(attempt));
}

/** The path of a unix socket must be short. */
function socketFolder({ attempt }: DomainRun): string {
  return join('/var/tmp', scratchFolderName(attempt));
}

function socketOf(run: DomainRun): string {
  return join(socketFolder(run), 'nbd.sock');
}

function stage(
  run: DomainRun,
  { plan }: Planned,
  staging: Staging,
  places: readonly string[],
): Promise<readonly StagedDisk[]> {
  const { options, signal } = run;
  return eachDisk(plan.disks, async (planned) => {
    const path = await stageImage(staging, planned, { compressionType: options.compress ? 'zstd' : null, signal });
    const index = plan.disks.indexOf(planned);
    const { node: target } = planned.source;
    const pull = { target, since: planned.copyBitmap, scratch: scratchImage(places[index] ?? '', index) };
    return { planned, path, pull };
  });
}

/** The begin may have reached libvirt where its answer did not reach us; the undo looks. */
async function begin(run: DomainRun, { plan, targetId }: Planned, staged: readonly StagedDisk[]): Promise<void> {
  const { virsh, uuid, domain } = run.session;
  const tracked = plan.disks.filter(({ newBitmap }) => newBitmap !== null).map(({ source }) => source.node);
  const others = domain.disks.map(({ target }) => target).filter((target) => !tracked.includes(target));
  const checkpoint = { name: checkpointName(targetId, run.attempt), disks: tracked, without: others };
  const backup = { mode: 'pull' as const, socket: socketOf(run), disks: staged.map(({ pull }) => pull) };
  try {
    await beginBackup(virsh, uuid, backup, tracked.length > 0 ? checkpoint : undefined);
  } catch (error) {
    if (!(error instanceof VirshError)) throw error;
    throw new QmpBackupError('failed', `libvirt did not begin the backup: ${error.words}`, {
      cause: error,
      hint: 'No point was made and no change is lost.',
    });
  }
}

interface Pulled {
  readonly job: string;
  readonly copied: number;
  readonly error: null;
  readonly durationMs: number;
}

/** All disks at once. Throws at the first that fails; the others have ended by then. */
async function pullAll(run: DomainRun, staged: readonly StagedDisk[]): Promise<readonly Pulled[]> {
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

function sourceOf(run: DomainRun, { pull }: Pick<StagedDisk, 'pull'>): NbdSource {
  return { address: { kind: 'unix', path: socketOf(run) }, exportName: exportOf(pull).exportName };
}

async function pullOne(
  run: DomainRun,
  { planned, path, pull }: StagedDisk,
  signal: AbortSignal,
  onProgress: (done: number, total: number) => void,
): Promise<Pulled> {
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
  const [backup, job] = [await runningBackup(virsh, uuid), await jobOf(virsh, uuid)];
  if (backup?.socket === socketOf(run) && job?.state === 'running' && job.error === null) return;
  const why = job?.error ?? (backup ? 'another one runs in its place' : 'somebody ended it');
  throw new QmpBackupError('failed', `the backup job of the domain did not last until all was read: ${why}`, {
    hint: 'No point was made and no change is lost: the next run copies it all.',
  });
}

/**
 * A guest whose write did not fit into a full scratch image is paused by libvirt; once the job has ended it goes on,
 * writes again and has seen no error.
 */
async function resume({ session: { virsh, uuid }, warn }: DomainRun): Promise<void> {
  await virsh('resume', [], { domain: uuid });
  warn('the scratch space gave out and the guest was paused for it; it goes on now');
}

/** The undo of a failed attempt is the repair that the next run would make; where it cannot be made now, that one does. */
async function undone(run: DomainRun, before: VmState, error: unknown): Promise<unknown> {
  if (run.watch.givenUp.aborted) return run.watch.givenUp.reason;
  const { virsh, uuid } = run.session;
  try {
    const state = await readTarget(run.target, run.options.monthly);
    const domain = await inspectDomain(virsh, uuid);
    const { report } = await repairDomain({ ...run.session, domain }, state, vmStateOf(domain));
    report.warnings.forEach(run.warn);
    if (before.running && domain.state === 'paused' && domain.stateReason === 'I/O error') await resume(run);
  } catch (failure) {
    run.warn(`the run could not be undone now (${messageOf(failure)}); the next run does it by the journal`);
  }
  if (error instanceof LibvirtUnreachable || error instanceof VirshTimeout) {
    return new QmpBackupError('failed', `libvirt was lost during the backup: ${error.message}`, {
      cause: error,
      hint: 'No point was made and no change is lost. Run it again when libvirt answers.',
    });
  }
  return error;
}
