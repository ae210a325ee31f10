/**
 * A verb that `run` has started in a process of its own. A run that is killed can tell nobody: its steps would go on unheard, hold
 * their VMs and targets, and the next run would find them locked.
 */
const MARK = 'QMPBACKUP_STEP';

/** What such a process has in its environment, beside a channel to the run. */
export const STEP_ENV: Readonly<Record<string, string>> = { [MARK]: '1' };

/** Whether this is such a process, which is asked once: those that it starts are not. */
export function takeStepMark(): boolean {
  const marked = process.env[MARK] !== undefined && process.send !== undefined;
  Reflect.deleteProperty(process.env, MARK);
  return marked;
}

/** In the process of a step: ends like a SIGTERM when the run is gone. */
export function endWithRun(): void {
  process.once('disconnect', () => process.kill(process.pid, 'SIGTERM'));
}

/** In the process of a step, at its end: while it listens to that channel, node does not end. */
export function leaveRun(): void {
  process.removeAllListeners('disconnect');
  if (process.connected) process.disconnect();
}
