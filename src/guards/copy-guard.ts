import { thisProcess } from '../host/lock-owner.js';
import { DetachedGuard } from './detached.js';

/** Ends what a copy has going on in a domain, from a process of its own, where the run that made it is gone. */
export interface CopyGuard {
  /** Ends the guard: there is nothing left to do for it. Without this it acts as soon as this process has ended. */
  release(): void;
  /** Has it act now: this process can do no more. */
  handOver(): void;
}

/** Whose end has the guard act. */
export interface GuardedOwner {
  readonly pid: number;
  /** `processStartTime` of `LockOwner`. */
  readonly startTime: string;
}

/** Short runs are over by then, and are spared the start of Node: 90 ms of CPU beside half a second. */
const DELAY_S = 2;

/** `onLost`: it cannot be started, or has ended; the next run then does what it would have done. */
export function startCopyGuard(
  program: URL,
  taskFor: (owner: GuardedOwner) => object,
  onLost: (why: string) => void,
): CopyGuard {
  const { pid, processStartTime: startTime } = thisProcess('copy');
  const guard = new DetachedGuard({
    program,
    task: taskFor({ pid, startTime }),
    onLost,
    delayS: DELAY_S,
    // It holds no mount.
    cwd: '/',
  });
  guard.unref();
  return { release: () => guard.kill(), handOver: () => guard.release() };
}
