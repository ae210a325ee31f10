import type { JobState } from '../../core/disk.js';
import { CANCELLED, copiesFailed, type FailedCopy, sparesOthers } from '../../core/failed-copies.js';
import { listNames } from '../../core/listed-names.js';
import { QmpBackupError } from '../../errors.js';
import type { JobErrors } from '../../qemu/job-errors.js';
import { watchJobs } from '../../qemu/job-watch.js';
import type { Copies } from '../copy-method.js';
import type { Fleecing, QmpPlan, QmpRun } from './run.js';

/**
 * Follows the jobs of a point to their ends. Throws unless all of them ended well, within what the watch allows; with
 * `--skip-failed-disks`, unless one did, and what the others failed of is theirs.
 */
export async function followJobs(run: QmpRun, { plan, fleecing }: QmpPlan, errors: JobErrors): Promise<Copies> {
  const failedCopy = (job: string, why: string): FailedCopy => {
    const disk = plan.disks.find((each) => each.job === job)?.disk ?? job;
    const said = why === CANCELLED && errors.failedOf(job) === null ? `somebody else cancelled its job (${why})` : why;
    return { disk, why: said, ...(harmsGuest(fleecing, errors.failedOf(job), why) && { harmsGuest: true }) };
  };
  const begun = performance.now();
  const ended = new Map<string, number>();
  const onProgress = (jobs: readonly JobState[]): void => {
    run.watch.sawJobs(jobs);
    for (const { id, status } of jobs) {
      if (status === 'concluded' && !ended.has(id)) ended.set(id, performance.now() - begun);
    }
    run.context.report({
      kind: 'progress',
      disks: plan.disks.flatMap(({ disk, job }) => {
        const found = jobs.find(({ id }) => id === job);
        return found ? [{ disk, done: found.current, total: found.total }] : [];
      }),
    });
  };
  const outcomes = await watchJobs(
    run.session.client,
    plan.disks.map(({ job }) => job),
    {
      ...{ signal: run.signal, intervalMs: run.options.progressIntervalMs, onProgress, givenUp: run.watch.givenUp },
      goesOn: (job, error) => run.options.skipFailed && sparesOthers(failedCopy(job, error)),
    },
  ).finally(() => run.watch.jobsEnded());
  run.signal.throwIfAborted();
  // Those that we cancelled because another failed are not what the reader has to hear of.
  const bad = outcomes.flatMap(({ job, error, cancelled }) =>
    error === null || (cancelled && error === CANCELLED) ? [] : [failedCopy(job, error)],
  );
  const isScratch = ({ disk, why }: FailedCopy): boolean => why === BROKEN_SNAPSHOT && fleecing.disks.has(disk);
  // One that was ended for the sake of others is not whole, whatever those have come to meanwhile.
  const whole = !outcomes.some(({ cancelled, error }) => cancelled && error !== null);
  const spared = run.options.skipFailed && whole && bad.every(sparesOthers);
  if (bad.length > 0 && !(spared && bad.length < outcomes.length)) {
    throw bad.every(isScratch)
      ? scratchGaveOut(listNames(bad.map(({ disk }) => disk)))
      : copiesFailed(bad, outcomes.length);
  }
  return {
    outcomes: outcomes
      .filter(({ error }) => error === null)
      .map(({ job, copied }) => ({ job, copied, durationMs: ended.get(job) ?? 0 })),
    failed: bad.map((each) => (isScratch(each) ? { ...each, why: SCRATCH_GAVE_OUT } : each)),
  };
}

/**
 * Whether jobs that go on could fail the guest's writes, as their target is where the one that failed has written: not where
 * old data goes to a scratch image, nor where the jobs break themselves. A job that somebody else cancels has failed of neither
 * side, and it is his word on that one disk.
 */
function harmsGuest({ fleece, features }: Fleecing, failedOf: 'source' | 'target' | null, why: string): boolean {
  if (fleece || features?.driveBackup.onCbwError === true) return false;
  return failedOf === 'target' || (failedOf === null && why !== CANCELLED);
}

/** What a job hears that reads from a snapshot whose filter has given it up (7.2 and 10.0). */
const BROKEN_SNAPSHOT = 'Permission denied';
const SCRATCH_GAVE_OUT =
  'its scratch image was full or too slow (give it more room or faster storage with --fleece-dir, or more time with --cbw-timeout)';

function scratchGaveOut(disk: string): QmpBackupError {
  return new QmpBackupError('failed', `the scratch image of ${disk} was full or too slow, so the backup was given up`, {
    hint: MORE_SCRATCH,
  });
}

export const MORE_SCRATCH =
  "No point was made, no change is lost, and the guest's writes went on. Give scratch images more room or faster " +
  'storage with --fleece-dir, or more time with --cbw-timeout.';
