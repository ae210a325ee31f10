import type { QmpClient } from '../qmp/client.js';

/**
 * Which side a job of ours failed of, the disk that it reads or the target that it writes. QEMU tells that once, in an event
 * before the job has ended: whoever wants to know listens before the job begins.
 */
export interface JobErrors {
  /** Whether the job failed of one side, and of which; null where QEMU told nothing, as of a job that was cancelled. */
  failedOf(job: string): 'source' | 'target' | null;
  close(): void;
}

export function listenForJobErrors(client: QmpClient): JobErrors {
  const events = client.events(['BLOCK_JOB_ERROR']);
  const sides = new Map<unknown, 'source' | 'target'>();
  return {
    failedOf: (job) => {
      for (const { data } of events.come()) {
        const { device, operation } = data;
        if (operation !== 'read') sides.set(device, 'target');
        else if (!sides.has(device)) sides.set(device, 'source');
      }
      return sides.get(job) ?? null;
    },
    close: () => {
      events.close();
    },
  };
}
