/** Jobs of single disks: `virsh blockcopy`, `blockpull`, `blockcommit`. libvirt backs no disk up that has one. */
import { VirshError } from './errors.js';
import type { Virsh } from './virsh.js';

/**
 * What libvirt calls them (`Block Copy`, `Block Pull`, `Block Commit`, `Active Block Commit`), by target. A backup that is
 * under way is no block job here.
 */
export async function blockJobsOf(
  virsh: Virsh,
  uuid: string,
  targets: readonly string[],
): Promise<ReadonlyMap<string, string>> {
  const found = await Promise.all(
    targets.map(async (target): Promise<readonly (readonly [string, string])[]> => {
      const type = await jobTypeOf(virsh, uuid, target);
      return type === undefined || type === 'Backup' ? [] : [[target, type]];
    }),
  );
  return new Map(found.flat());
}

async function jobTypeOf(virsh: Virsh, uuid: string, target: string): Promise<string | undefined> {
  try {
    const text = await virsh('blockjob', ['--path', target, '--info', '--raw'], { domain: uuid });
    return /^\s*type=(.+?)\s*$/m.exec(text)?.[1];
  } catch (error) {
    // It has ended since it was looked at, and its jobs with it.
    if (error instanceof VirshError && error.reason === 'not-running') return undefined;
    throw error;
  }
}

/** The disk that libvirt did not back up for its block job, in its words; null where they are about something else. */
export function heldByBlockJob(words: string): string | null {
  return /disk '([^']+)' has a blockjob assigned/.exec(words)?.[1] ?? null;
}
