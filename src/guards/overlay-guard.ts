import { type CopyGuard, type GuardedOwner, startCopyGuard } from './copy-guard.js';
import type { OverlayGuardTask } from './overlay-guard-task.js';

const GUARD_PROGRAM = new URL('./overlay-guard-main.js', import.meta.url);

/**
 * Merges the overlays of a run that is gone into the images below them, from a process of its own: until that is done they grow with each
 * write of the guest, and where their folder is full the guest stands still.
 */
export function startOverlayGuard(
  task: Omit<OverlayGuardTask, 'owner'>,
  options: { readonly warn: (warning: string) => void },
): CopyGuard {
  const taskFor = (owner: GuardedOwner): OverlayGuardTask => ({ ...task, owner });
  // The next run merges them then.
  return startCopyGuard(GUARD_PROGRAM, taskFor, (why) =>
    options.warn(`no process guards the overlays of the domain: ${why}`),
  );
}
