import type { JobState } from '../core/disk.js';
import { QmpBackupError } from '../errors.js';
import type { QmpClient } from '../qmp/client.js';
import { run } from '../qmp/commands.js';
import { QmpCommandError, QmpInterrupted } from '../qmp/errors.js';
import type { EventStream } from '../qmp/event-stream.js';
import { readJobs } from './inspect.js';

/**
 * Follows our own jobs to their end. Events only wake it up: another client's job may be what ended, and a cancelled
 * job ends with an event too. What counts is `query-jobs`, asked for our ids.
 */
export interface JobOutcome {
  readonly job: string;
  /** Bytes that the job copied. */
  readonly copied: number;
  /** Why the job failed, in QEMU's words; null when it ended well. */
  readonly error: string | null;
  /** It still ran when the watch cancelled what was left. */
  readonly cancelled: boolean;
}

export interface JobWatchOptions {
  readonly signal: AbortSignal;
  /** Milliseconds between two looks when no event comes. */
  readonly intervalMs: number;
  readonly onProgress: (jobs: readonly JobState[]) => void;
  /** Whether the others go on where this one has failed, with these words; unless told, they do not. */
  readonly goesOn?: ((job: string, error: string) => boolean) | undefined;
  /** Ends the wait, by its reason, for jobs that were cancelled and do not end. */
  readonly givenUp?: AbortSignal | undefined;
}

const WAKING_EVENTS = ['JOB_STATUS_CHANGE', 'BLOCK_JOB_COMPLETED', 'BLOCK_JOB_CANCELLED', 'BLOCK_JOB_ERROR'];

/**
 * Waits until every job has concluded. The first failure that does not spare them, or `signal`, cancels the others; then their ends are
 * awaited all the same. The jobs are left undismissed. Throws when the monitor is lost or the wait is given up.
 */
export async function watchJobs(
  client: QmpClient,
  ids: readonly string[],
  { signal, intervalMs, onProgress, goesOn = () => false, givenUp }: JobWatchOptions,
): Promise<readonly JobOutcome[]> {
  const wakeUps = client.events(WAKING_EVENTS);
  try {
    let cancelled: ReadonlySet<string> | null = null;
    for (;;) {
      givenUp?.throwIfAborted();
      const jobs = await readJobs(client);
      const ours = jobs.filter(({ id }) => ids.includes(id));
      onProgress(ours);
      const outcomes = ids.map((id) => outcomeOf(id, ours));
      if (outcomes.every((outcome) => outcome !== undefined)) {
        return outcomes.map((outcome) => ({ ...outcome, cancelled: cancelled?.has(outcome.job) ?? false }));
      }
      const [pending] = ours.filter(({ status }) => status === 'pending');
      if (pending) {
        await finalizeJob(client, pending.id);
        await somethingHappened(wakeUps, LOOK_EVERY_MS);
        continue;
      }
      if (!cancelled && (signal.aborted || outcomes.some((each) => each?.error && !goesOn(each.job, each.error)))) {
        cancelled = new Set(ids.filter((_, index) => !outcomes[index]));
        await cancelInTurn(client, ids, wakeUps);
        continue;
      }
      await somethingHappened(wakeUps, intervalMs, cancelled ? givenUp : signal);
    }
  } finally {
    wakeUps.close();
  }
}

/** Milliseconds that the end of one cancelled job is waited for before the next is cancelled. */
const IN_TURN_MS = 1_000;
const LOOK_EVERY_MS = 20;

/**
 * Cancels the jobs that still run, each when the one before it has ended: two that end at once hang a QEMU 7.2 that has
 * both disks in one iothread. One that does not end has a target that hangs; then the guest must be let go quickly.
 */
async function cancelInTurn(client: QmpClient, ids: readonly string[], wakeUps: EventStream): Promise<void> {
  let hangs = false;
  for (const id of ids) {
    await cancelJob(client, id);
    const until = performance.now() + IN_TURN_MS;
    while (!hangs && isUnfinished(id, await readJobs(client))) {
      hangs = performance.now() > until;
      await somethingHappened(wakeUps, LOOK_EVERY_MS);
    }
  }
}

function isUnfinished(id: string, jobs: readonly JobState[]): boolean {
  return jobs.some((job) => job.id === id && job.status !== 'concluded');
}

async function somethingHappened(events: EventStream, timeoutMs: number, signal?: AbortSignal): Promise<void> {
  try {
    await events.next({ timeoutMs, signal });
  } catch (error) {
    if (!(error instanceof QmpInterrupted)) throw error;
  }
}

function outcomeOf(id: string, jobs: readonly JobState[]): Omit<JobOutcome, 'cancelled'> | undefined {
  const job = jobs.find((each) => each.id === id);
  if (!job) return { job: id, copied: 0, error: 'it is gone from QEMU: somebody else dismissed it' };
  if (job.status !== 'concluded') return undefined;
  return { job: id, copied: job.total, error: job.error };
}

/**
 * Jobs that copy next to nothing until they are told to: those of a frozen guest, who otherwise waits until processors and storage
 * are free to let it thaw. In bytes per second; the first piece of each disk is copied all the same. Not less, for jobs of a run
 * that was killed before it told them end by themselves.
 */
export const TRICKLE = 2 * 1024 * 1024;

/** @param speed bytes per second; 0 is no limit */
export async function setSpeed(client: QmpClient, ids: readonly string[], speed: number): Promise<void> {
  await Promise.all(
    ids.map(async (device) => {
      try {
        await run(client, 'block-job-set-speed', { device, speed });
      } catch (error) {
        // One that has nothing left to copy takes no speed.
        if (!(error instanceof QmpCommandError) || (await isCopying(client, device))) throw error;
      }
    }),
  );
}

const COPYING = ['created', 'running', 'paused', 'ready', 'standby'];

async function isCopying(client: QmpClient, id: string): Promise<boolean> {
  return (await readJobs(client)).some((job) => job.id === id && COPYING.includes(job.status));
}

/** Cancels a job; one that is already ending or gone is as good as cancelled. */
export async function cancelJob(client: QmpClient, id: string): Promise<void> {
  await tolerating(['DeviceNotActive', 'GenericError'], run(client, 'job-cancel', { id }));
}

/** Lets a job end that waits for that. */
async function finalizeJob(client: QmpClient, id: string): Promise<void> {
  await tolerating(['DeviceNotActive', 'GenericError'], run(client, 'job-finalize', { id }));
}

/** Takes a concluded job out of QEMU's list. */
export async function dismissJob(client: QmpClient, id: string): Promise<void> {
  await tolerating(['DeviceNotActive', 'GenericError'], run(client, 'job-dismiss', { id }));
}

/** Milliseconds that a job may take to end once it was cancelled: what it has begun to write has to be written. */
const ENDING_MS = 30_000;

/** Cancels those that still run, waits for their ends and dismisses all. */
export async function endJobs(client: QmpClient, ids: readonly string[]): Promise<void> {
  const present = (await readJobs(client)).filter(({ id }) => ids.includes(id)).map(({ id }) => id);
  await stopJobs(client, present, ENDING_MS);
  await Promise.all(present.map((id) => dismissJob(client, id)));
}

/**
 * Cancels jobs and waits for their ends; their outcomes stay readable.
 *
 * @throws QmpBackupError `failed` when one of them does not end: QEMU cannot end a job whose target hangs
 */
export async function stopJobs(client: QmpClient, ids: readonly string[], timeoutMs: number): Promise<void> {
  const limit = AbortSignal.timeout(timeoutMs);
  try {
    await watchJobs(client, ids, {
      signal: AbortSignal.abort(),
      intervalMs: 200,
      onProgress: () => undefined,
      givenUp: limit,
    });
  } catch (error) {
    if (!limit.aborted || error !== limit.reason) throw error;
    throw new QmpBackupError(
      'failed',
      `${ids.join(', ')}: this job of an earlier run was cancelled and does not end; the target it writes to hangs`,
      {
        cause: error,
        hint:
          'No change is lost. Look for the server or the network behind that target, then run it again: the job ends ' +
          "when the target answers. Until then the guest's writes may wait for it.",
      },
    );
  }
}

async function tolerating(classes: readonly string[], command: Promise<unknown>): Promise<void> {
  try {
    await command;
  } catch (error) {
    if (!(error instanceof QmpCommandError && classes.includes(error.errorClass))) throw error;
  }
}
