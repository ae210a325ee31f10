/** Starts a domain, ends it and lets it go on, and what has to be known for that. */
import { VirshError } from './errors.js';
import type { Virsh } from './virsh.js';

/** Whether the memory of a domain that is off is kept: its next start goes on from there. */
export async function hasManagedSave(virsh: Virsh, uuid: string): Promise<boolean> {
  const uuids = await virsh('list', ['--all', '--with-managed-save', '--uuid']);
  return uuids.split('\n').some((line) => line.trim() === uuid);
}

/** How a domain ended, in libvirt's words: `shut off (crashed)`; null where it has not. */
export async function endOf(virsh: Virsh, uuid: string): Promise<string | null> {
  const state = (await virsh('domstate', ['--reason'], { domain: uuid })).trim();
  return state.startsWith('shut off') ? state : null;
}

/** Starts a domain that is off, before the first instruction of its guest. */
export async function startPaused(virsh: Virsh, uuid: string): Promise<void> {
  await virsh('start', ['--paused'], { domain: uuid });
}

/** Ends a domain by SIGTERM alone, upon which QEMU closes its images. */
export async function destroyGracefully(virsh: Virsh, uuid: string): Promise<void> {
  await virsh('destroy', ['--graceful'], { domain: uuid });
}

/** Milliseconds that a virtual CPU may have spent on being made. */
const MADE_MS = 20;

/**
 * Whether the guest has done nothing since its start: no request to a disk, and no more time on any CPU than making that
 * takes. libvirt calls it `paused (user)` both before its first instruction and after a `suspend`.
 */
export async function hasHardlyRun(virsh: Virsh, uuid: string): Promise<boolean> {
  const stats = await virsh('domstats', ['--raw', '--vcpu', '--block', uuid]);
  const values = (key: RegExp): number[] => [...stats.matchAll(key)].map(([, value]) => Number(value));
  const times = values(/^\s*vcpu\.\d+\.time=(\d+)$/gm);
  const requests = values(/^\s*block\.\d+\.(?:rd|wr)\.reqs=(\d+)$/gm);
  return times.length > 0 && times.every((time) => time <= MADE_MS * 1e6) && requests.every((count) => count === 0);
}

/** libvirt's numbers for `paused (I/O error)`: a write of the guest failed and waits to be tried again. */
const PAUSED_BY_IO_ERROR = /^\s*state\.state=3\n\s*state\.reason=5$/m;

/**
 * Lets a guest go on whose write did not fit into a full scratch image; it is tried again, and the guest has seen no
 * error. Resolves to whether it had stood still; one that is paused for another reason stays paused.
 */
export async function resumeStalled(virsh: Virsh, uuid: string): Promise<boolean> {
  if (!(await isStalled(virsh, uuid))) return false;
  try {
    await virsh('resume', [], { domain: uuid });
  } catch (error) {
    // A guard of an earlier run may have been faster.
    if (!(error instanceof VirshError) || (await isStalled(virsh, uuid))) throw error;
  }
  return true;
}

async function isStalled(virsh: Virsh, uuid: string): Promise<boolean> {
  return PAUSED_BY_IO_ERROR.test(await virsh('domstats', ['--raw', '--state', uuid]));
}

/** Whether libvirt keeps the definition of the domain when it ends. */
export async function isPersistent(virsh: Virsh, uuid: string): Promise<boolean> {
  return /^Persistent:\s+yes$/m.test(await virsh('dominfo', [], { domain: uuid }));
}
