import type { JobInfo } from './job-info.js';

/**
 * libvirt tells how the last job ended, and not which one that was. One of somebody else that began after ours had
 * ended is told by its time: it cannot have run for as long as ours was seen to run.
 *
 * @returns why a push that is no longer there cannot be taken as whole, or null where it ended well
 */
export function whyNotWhole(last: JobInfo | null, { seenForMs }: { readonly seenForMs: number }): string | null {
  if (last === null) return 'libvirt no longer knows how its job ended';
  const { operation, elapsedMs, state, error } = last;
  if (operation !== 'backup' || elapsedMs === null || elapsedMs < Math.floor(seenForMs)) {
    return 'how its job ended is not known, since another one has ended after it';
  }
  if (state === 'completed') return error;
  return state === 'cancelled' ? 'somebody ended its job' : (error ?? `its job ended as ${state}`);
}
