/** `virsh blockcommit`: what an image holds of its own goes into the one below it, while the guest runs. */
import { limitedTo } from './block-jobs.js';
import { VirshError } from './errors.js';
import type { Virsh } from './virsh.js';

/** What `blockjob --info --raw` calls them. */
export const ACTIVE_COMMIT = 'Active Block Commit';
export const COMMIT = 'Block Commit';

/**
 * Begins to commit the image that the guest writes to into `base`, with all that is between them. The job then goes on copying what
 * the guest writes until `pivot` ends it. `rate`: bytes per second, 0 without a limit.
 */
export async function startActiveCommit(
  virsh: Virsh,
  uuid: string,
  target: string,
  { base, rate }: { readonly base: string; readonly rate: number },
): Promise<void> {
  await virsh('blockcommit', ['--path', target, '--base', base, '--active', ...limitedTo(rate)], { domain: uuid });
}

/** Begins to commit an image below the one that the guest writes to; the job ends by itself, and `top` is then in no chain. */
export async function startCommit(
  virsh: Virsh,
  uuid: string,
  target: string,
  { top, base, rate }: { readonly top: string; readonly base: string; readonly rate: number },
): Promise<void> {
  await virsh('blockcommit', ['--path', target, '--base', base, '--top', top, ...limitedTo(rate)], { domain: uuid });
}

/** Ends an active commit: the guest writes to its base from then on. False where that is not ready yet. */
export async function pivot(virsh: Virsh, uuid: string, target: string): Promise<boolean> {
  try {
    await virsh('blockjob', ['--path', target, '--pivot'], { domain: uuid });
    return true;
  } catch (error) {
    if (error instanceof VirshError && /not ready for pivot yet/.test(error.words)) return false;
    throw error;
  }
}
