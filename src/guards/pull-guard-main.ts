/** The process of a pull's guard, which its owner kills when there is nothing left to do. */
import { setTimeout as sleep } from 'node:timers/promises';
import { hasEnded, inspectProcess } from '../host/lock-owner.js';
import { endPullAt } from '../libvirt/end-pull.js';
import { DomainNotFound } from '../libvirt/errors.js';
import { resumeStalled } from '../libvirt/lifecycle.js';
import { createVirsh } from '../libvirt/virsh.js';
import { beginGuard, hearOwner, leaveOwner } from './own-side.js';
import { pullTask } from './pull-guard-task.js';

const task = beginGuard(pullTask);

/** A process in a call that nothing interrupts holds its pipes after it was killed, so it is looked at, too. */
const POLL_MS = 1_000;
/** Milliseconds between two attempts: they grow, up to this. */
const FIRST_PAUSE_MS = 100;
const LAST_PAUSE_MS = 10_000;
/** libvirt carries out a begin that had to wait for another job, up to 30 s, also when nobody waits for it any more. */
const SETTLED_MS = 45_000;
/** Then it is left to the next run. */
const LONGEST_MS = 3_600_000;

await ownerGone();
await endPull();

async function ownerGone(): Promise<void> {
  const { pid, startTime } = task.owner;
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

/** Each attempt looks first whose job it is: the next run may have ended ours, and begun one of its own. */
async function endPull(): Promise<void> {
  const virsh = createVirsh(task.connect ?? undefined);
  const begun = performance.now();
  let absentSince: number | undefined;
  for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(2 * pause, LAST_PAUSE_MS)) {
    try {
      const found = await endPullAt(virsh, task.uuid, task.socket);
      if (found === 'another') return;
      if (found === 'absent') absentSince ??= performance.now();
      if (task.resumes) await resumeStalled(virsh, task.uuid);
      if (found === 'ended') return;
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
