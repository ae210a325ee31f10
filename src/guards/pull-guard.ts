import { type CopyGuard, type GuardedOwner, startCopyGuard } from './copy-guard.js';
import type { PullGuardTask } from './pull-guard-task.js';

const GUARD_PROGRAM = new URL('./pull-guard-main.js', import.meta.url);

/**
 * Ends the pull of a run that is gone, from a process of its own: a job that nobody ends goes on filling scratch images,
 * which libvirt does not bound, until there is no space left and the guest stands still.
 */
export function startPullGuard(
  task: Omit<PullGuardTask, 'owner'>,
  options: { readonly warn: (warning: string) => void },
): CopyGuard {
  const taskFor = (owner: GuardedOwner): PullGuardTask => ({ ...task, owner });
  // The next run ends the job then.
  return startCopyGuard(GUARD_PROGRAM, taskFor, (why) =>
    options.warn(`no process guards the backup job of the domain: ${why}`),
  );
}
