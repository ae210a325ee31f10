/**
 * The process of a pull's guard, which its parent kills when there is nothing left to do. It loads what it needs only when
 * it is needed, for most runs end by themselves.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { QmpBackupError } from '../../errors.js';
import { lookAtProcess } from '../../repository/lock-owner.js';
import type { PullGuardTask } from './pull-guard.js';

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined);

const task = JSON.parse(process.argv[2] ?? '') as PullGuardTask;

/** A process in a call that nothing interrupts holds its pipes after it was killed, so it is looked at, too. */
const LOOK_MS = 1_000;
/** Milliseconds between two attempts: they grow, up to this. */
const FIRST_PAUSE_MS = 100;
const LAST_PAUSE_MS = 30_000;
/** A begin that was sent to a libvirtd that hangs may come to pass so much later than its answers. */
const SETTLED_MS = 5_000;
/** Then it is left to the next run. */
const LONGEST_MS = 3_600_000;

await parentGone();
await endPull();

async function parentGone(): Promise<void> {
  let look: NodeJS.Timeout | undefined;
  try {
    await new Promise<void>((resolve) => {
      process.stdin
        .resume()
        .on('close', resolve)
        .on('error', () => resolve());
      look = setInterval(() => {
        if (isParentGone()) resolve();
      }, LOOK_MS);
    });
  } finally {
    clearInterval(look);
    process.stdin.destroy();
  }
}

function isParentGone(): boolean {
  const { pid, state } = task.parent;
  const now = lookAtProcess(pid);
  if (now === 'gone') return true;
  if (typeof now === 'string' || typeof state === 'string') return false;
  return now.zombie || now.startTime !== state.startTime;
}

/** Each attempt looks whose job it is: the next run may have ended ours, and begun one of its own. */
async function endPull(): Promise<void> {
  const { createVirsh } = await import('../../libvirt/virsh.js');
  const { resumeStalled } = await import('../../libvirt/domain-life.js');
  const { DomainNotFound } = await import('../../libvirt/errors.js');
  const { endPullAt } = await import('./end-pull.js');
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
      if (!(error instanceof QmpBackupError)) throw error;
      if (error instanceof DomainNotFound) return;
      // libvirtd may be starting again, or hang: it is asked once more.
    }
    const now = performance.now();
    if (now - (absentSince ?? now) >= SETTLED_MS || now - begun >= LONGEST_MS) return;
    await sleep(pause);
  }
}
