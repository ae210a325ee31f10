import { thisProcess } from '../host/lock-owner.js';
import { DetachedGuard } from './detached.js';
import type { PullGuardTask } from './pull-guard-task.js';

export interface PullGuard {
  /** Ends the guard: there is nothing left to do for it. Without this it acts as soon as this process has ended. */
  release(): void;
  /** Has it act now: this process can do no more. */
  handOver(): void;
}

const GUARD_PROGRAM = new URL('./pull-guard-main.js', import.meta.url);
/** Short runs are over by then, and are spared the start of Node: 90 ms of CPU beside half a second. */
const DELAY_S = 2;

/**
 * Ends the pull of a run that is gone, from a process of its own: a job that nobody ends goes on filling scratch images,
 * which libvirt does not bound, until there is no space left and the guest stands still.
 */
export function startPullGuard(
  task: Omit<PullGuardTask, 'owner'>,
  options: { readonly warn: (warning: string) => void },
): PullGuard {
  const { pid, processStartTime: startTime } = thisProcess('pull');
  const guard = new DetachedGuard({
    program: GUARD_PROGRAM,
    task: { ...task, owner: { pid, startTime } } satisfies PullGuardTask,
    // The next run ends the job then.
    onLost: (why) => options.warn(`no process guards the backup job of the domain: ${why}`),
    delayS: DELAY_S,
    // It holds no mount.
    cwd: '/',
  });
  guard.unref();
  return { release: () => guard.kill(), handOver: () => guard.release() };
}
