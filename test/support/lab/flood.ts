/** What `workload=flood` has seen: how long its writes had to wait, and whether one of them failed. */
import type { Guest } from './guest.js';

export interface FloodReport {
  readonly writes: number;
  /** Longest that a write took, by the guest's clock, in milliseconds; it goes in steps of ten. */
  readonly longestMs: number;
  /** One line for each write that failed and each read that found something else than was written. */
  readonly errors: readonly string[];
}

/** What was seen since the last report. Holds the writers still: no write that still waits is left out. */
export async function takeFlood(guest: Guest): Promise<FloodReport> {
  await guest.pauseWorkload();
  const waits = lines(await guest.run('cat /run/lab/flood-*.waits && rm /run/lab/flood-*.waits')).map(Number);
  const errors = lines(await guest.run(`cat /run/lab/flood.errors; dmesg | grep 'I/O error'; :`));
  await guest.resumeWorkload();
  return { writes: waits.length, longestMs: 10 * Math.max(...waits), errors };
}

function lines(text: string): readonly string[] {
  return text.split('\n').filter((line) => line !== '');
}
