import type { JobState } from '../../domain/disk.js';
import { listNames } from '../../domain/listed-names.js';
import { QmpBackupError } from '../../errors.js';
import { watchJobs } from '../../qemu/job-watch.js';
import type { Copied } from '../point/seal-point.js';
import type { QmpPlan, QmpRun } from './qmp-run.js';

/** Follows the jobs of a point to their ends. Throws unless all of them ended well, within what the watch allows. */
export async function followJobs(run: QmpRun, { plan, fleecing }: QmpPlan): Promise<readonly Copied[]> {
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
    { signal: run.signal, intervalMs: run.options.progressIntervalMs, onProgress, givenUp: run.watch.givenUp },
  ).finally(() => run.watch.jobsEnded());
  run.signal.throwIfAborted();
  const failed = outcomes.filter(({ error }) => error !== null);
  if (failed.length > 0) {
    const nameOf = (job: string): string => plan.disks.find((each) => each.job === job)?.disk ?? job;
    // Those that we cancelled because another failed are not what the reader has to hear of.
    const causes = failed.filter(({ error }) => error !== 'Operation canceled');
    const bad = (causes.length > 0 ? causes : failed).map(({ job, error }) => ({ disk: nameOf(job), error }));
    const scratch = bad.filter(({ disk, error }) => error === BROKEN_SNAPSHOT && fleecing.disks.has(disk));
    if (scratch.length === bad.length) throw scratchGaveOut(listNames(scratch.map(({ disk }) => disk)));
    const words = bad.map(({ disk, error }) => `${disk} failed: ${error}`).join('; that of ');
    throw new QmpBackupError('failed', `the backup of ${words}`, {
      hint: 'No point was made and no change is lost: the next run copies it all.',
    });
  }
  return outcomes.map(({ job, copied }) => ({ job, copied, durationMs: ended.get(job) ?? 0 }));
}

/** What a job hears that reads from a snapshot whose filter has given it up (7.2 and 10.0). */
const BROKEN_SNAPSHOT = 'Permission denied';

function scratchGaveOut(disk: string): QmpBackupError {
  return new QmpBackupError('failed', `the scratch image of ${disk} was full or too slow, so the backup was given up`, {
    hint:
      "No point was made, no change is lost, and the guest's writes went on. Give scratch images more room or faster " +
      'storage with --fleece-dir, or more time with --cbw-timeout.',
  });
}
