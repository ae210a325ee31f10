import { expect, it } from 'vitest';
import { followJobs } from '../../../../src/backends/qmp/follow-jobs.js';
import type { QmpPlan, QmpRun } from '../../../../src/backends/qmp/run.js';
import { copiesFailed } from '../../../../src/core/failed-copies.js';

/** A QEMU in which job A has failed and B runs, and somebody dismisses A as soon as B is cancelled because of it. */
function dismissing(words: string): QmpRun {
  let cancelled = false;
  const job = (id: string, status: string, error?: string): object => ({
    ...{ id, type: 'backup', status, 'current-progress': 5, 'total-progress': 10 },
    ...(error === undefined ? {} : { error }),
  });
  const client = {
    events: () => ({
      next: () => new Promise((resolve) => setTimeout(resolve, 1)),
      come: () => [],
      close: () => undefined,
    }),
    execute: (command: string) => {
      if (command === 'job-cancel') cancelled = true;
      if (command !== 'query-jobs') return Promise.resolve({});
      const now = cancelled
        ? [job('B', 'concluded', 'Operation canceled')]
        : [job('A', 'concluded', words), job('B', 'running')];
      return Promise.resolve(now);
    },
  };
  const { signal } = new AbortController();
  return {
    options: { skipFailed: true, progressIntervalMs: 1 },
    session: { client },
    watch: { sawJobs: () => undefined, jobsEnded: () => undefined, givenUp: signal },
    context: { report: () => undefined },
    signal,
  } as unknown as QmpRun;
}

it.each([true, false])('a disk whose job we have cancelled is never taken for whole (fleeced: %s)', async (fleece) => {
  const fleecing = { fleece, features: null, disks: new Map() };
  const disks = [
    { job: 'A', disk: 'a' },
    { job: 'B', disk: 'b' },
  ];
  const planned = { plan: { disks }, fleecing } as unknown as QmpPlan;
  const errors = { failedOf: () => (fleece ? null : ('source' as const)), close: () => undefined };
  const following = followJobs(dismissing('No space left on device'), planned, errors);
  const gone = { disk: 'a', why: 'it is gone from QEMU: somebody else dismissed it' };
  await expect(following).rejects.toThrow(copiesFailed([gone], 2).message);
});
