/** How the guard of a copy waits for the end of its owner, and goes on until all is done. */
import { setTimeout as sleep } from 'node:timers/promises';
import { hasEnded, inspectProcess } from '../host/lock-owner.js';
import { DomainNotFound } from '../libvirt/errors.js';
import type { GuardedOwner } from './copy-guard.js';
import { hearOwner, leaveOwner } from './own-side.js';

/** A process in a call that nothing interrupts holds its pipes after it was killed, so it is looked at, too. */
const POLL_MS = 1_000;
/** Milliseconds between two attempts: they grow, up to this. */
const FIRST_PAUSE_MS = 100;
const LAST_PAUSE_MS = 10_000;
/** libvirt carries out a begin that had to wait for another job, up to 30 s, also when nobody waits for it any more. */
const SETTLED_MS = 45_000;
/** Then it is left to the next run. */
const LONGEST_MS = 3_600_000;

export async function ownerGone({ pid, startTime }: GuardedOwner): Promise<void> {
  let look: NodeJS.Timeout | undefined;
  await new Promise<void>((resolve) => {
    hearOwner({}, resolve);
    look = setInterval(() => {
      if (hasEnded(inspectProcess(pid), startTime)) resolve();
    }, POLL_MS);
  });
  clearInterval(look);
  leaveOwner();
}

/** `absent`: what the owner had asked libvirt for is not there, and may be begun yet. */
export async function untilDone(attempt: () => Promise<'done' | 'absent'>): Promise<void> {
  const begun = performance.now();
  let absentSince: number | undefined;
  for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(2 * pause, LAST_PAUSE_MS)) {
    try {
      if ((await attempt()) === 'done') return;
      absentSince ??= performance.now();
    } catch (error) {
      if (error instanceof DomainNotFound) return;
      // Whatever it was (libvirtd starts again, or hangs; no process can be started), nobody would hear of it, and the next
      // attempt may come to more.
    }
    const now = performance.now();
    if (now - (absentSince ?? now) >= SETTLED_MS || now - begun >= LONGEST_MS) return;
    await sleep(pause);
  }
}
