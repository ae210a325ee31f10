import { copiesFailed, type FailedCopy, sparesOthers } from '../../core/failed-copies.js';
import type { PlannedDisk } from '../../core/plan.js';
import { warning } from '../../core/warning.js';
import { messageOf } from '../../errors.js';
import { eachDisk, endingTogether } from '../../flow/all-of.js';
import type { NbdDeadlines } from '../../nbd/client.js';
import { NbdConnectionLost } from '../../nbd/errors.js';
import type { BackupRun } from '../backup-run.js';
import type { Copied, Copies } from '../copy-method.js';
import type { Difference, DifferenceOptions } from './pull-difference.js';
import { pullFull, pullIncrement } from './pull-image.js';
import type { PulledDisk } from './pulled-disk.js';
import { streamInstant } from './stream-instant.js';

/**
 * All disks at once; `folder` is for sockets. Throws at the first that fails, with `--skip-failed-disks` where no other is left
 * or can be spared; the others have ended by then. `beside`: how many disks of the point have been copied otherwise.
 */
export async function pullDisks(
  run: BackupRun,
  disks: readonly PulledDisk[],
  folder: string,
  { beside = 0 } = {},
): Promise<Copies> {
  const { raw } = run.context;
  if (raw) return streamInstant(run, disks, raw);
  const { signal, step } = endingTogether(run.signal);
  const progress = new Map(disks.map(({ planned }) => [planned.disk, { disk: planned.disk, done: 0, total: 0 }]));
  const work = new Map<string, number>();
  const look = (): void => {
    const seen = [...progress.values()];
    run.watch.sawJobs(
      seen.map(({ disk, done }) => ({ id: disk, status: 'running', current: done, work: work.get(disk) ?? 0 })),
    );
    run.context.report({ kind: 'progress', disks: seen });
  };
  const timer = setInterval(look, Math.min(run.options.progressIntervalMs, 1_000));
  const failed: FailedCopy[] = [];
  const settled = async (disk: string, copy: Promise<Copied>): Promise<readonly Copied[]> => {
    try {
      return [await copy];
    } catch (error) {
      signal.throwIfAborted();
      const failure = { disk, why: inWords(error) };
      failed.push(failure);
      const all = disks.length + beside;
      if (run.options.skipFailed && failed.length < all && sparesOthers(failure)) return [];
      throw copiesFailed(failed, all);
    }
  };
  try {
    const outcomes = await eachDisk(disks, (pulled) => {
      const { disk } = pulled.planned;
      const options = {
        ...{ folder, signal },
        onProgress: (done: number, total: number) => void progress.set(disk, { disk, done, total }),
        onWork: (done: number) => void work.set(disk, done),
      };
      return step(settled(disk, pullOne(run, pulled, options)));
    });
    return { outcomes: outcomes.flat(), failed };
  } finally {
    clearInterval(timer);
    run.watch.jobsEnded();
  }
}

/** QEMU's NBD server does not tell of data that it cannot read (7.2): it hangs up. */
function inWords(error: unknown): string {
  const hungUp = error instanceof NbdConnectionLost ? '; QEMU hangs up where it cannot read the disk' : '';
  return `${messageOf(error)}${hungUp}`;
}

interface PullOptions {
  readonly folder: string;
  readonly signal: AbortSignal;
  readonly onProgress: (done: number, total: number) => void;
  readonly onWork: (work: number) => void;
}

async function pullOne(
  run: BackupRun,
  { planned, path, source, bitmap, below }: PulledDisk,
  { folder, signal, onProgress, onWork }: PullOptions,
): Promise<Copied> {
  const { options } = run;
  const common = { signal, rateLimit: options.speedLimit, compress: options.compress, onWork };
  const begun = performance.now();
  let copied = planned.source.allocated;
  if (below !== null) {
    const difference = { source, chain: below, target: path };
    copied = await storeDifference(run, planned, difference, {
      ...{ ...common, folder, deadlines: deadlinesFor(options) },
      onProgress: ({ done, total }) => onProgress(done, total),
    });
  } else if (bitmap === null) {
    const total = planned.source.virtualSize;
    await pullFull(source, path, {
      ...common,
      onProgress: (percent) => onProgress((percent * total) / 100, total),
    });
  } else {
    const increment = { source, bitmap, target: path };
    const done = await pullIncrement(increment, {
      ...{ ...common, folder, deadlines: deadlinesFor(options) },
      onProgress: ({ done: bytes, total }) => onProgress(bytes, total),
    });
    copied = done.total;
  }
  return { job: planned.job, copied, durationMs: performance.now() - begun };
}

/** @returns bytes that were stored; warns of what had rotted in the chain */
export async function storeDifference(
  { warn }: Pick<BackupRun, 'warn'>,
  { disk, file: image }: Pick<PlannedDisk, 'disk' | 'file'>,
  difference: Difference,
  options: DifferenceOptions,
): Promise<number> {
  // Most backups compare nothing, and threads and daemons would have to be loaded (docs/decisions/0001).
  const { pullDifference } = await import('./pull-difference.js');
  const { stored, healed } = await pullDifference(difference, options);
  for (const { file, why } of healed) {
    const words = `${disk}/${file}: ${why}. ${image} has what the disk has there; earlier points are damaged`;
    warn(warning('parent-rotten', words));
  }
  return stored;
}

/** Whether a run gets on, its watch judges: what is behind it gives up only when that has not ended the run. */
export function deadlinesFor({ stallTimeoutMs }: BackupRun['options']): NbdDeadlines {
  const ms = stallTimeoutMs + WATCH_MS;
  return { connectMs: ms, requestMs: ms, flushMs: ms };
}

/** What the watch may need to notice, in milliseconds. */
const WATCH_MS = 30_000;
