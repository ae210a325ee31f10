/** Jobs of single disks: `virsh blockcopy`, `blockpull`, `blockcommit`. libvirt backs no disk up that has one. */
import { asShellWord } from '../domain/shell-word.js';
import type { Virsh } from './virsh.js';

export interface BlockJob {
  readonly target: string;
  /** In libvirt's words: `Block Copy`, `Block Pull`, `Block Commit`, `Active Block Commit`. */
  readonly type: string;
}

/** Those of somebody else: a backup that is under way is no block job here. */
export async function blockJobsOf(
  virsh: Virsh,
  uuid: string,
  targets: readonly string[],
): Promise<readonly BlockJob[]> {
  const found = await Promise.all(
    targets.map(async (target) => {
      const text = await virsh('blockjob', ['--path', target, '--info', '--raw'], { domain: uuid });
      const type = /^\s*type=(.+?)\s*$/m.exec(text)?.[1];
      return type === undefined || type === 'Backup' ? [] : [{ target, type }];
    }),
  );
  return found.flat();
}

/** The disk that libvirt did not back up for its block job, in its words; null where they are about something else. */
export function heldByBlockJob(words: string): string | null {
  return /disk '([^']+)' has a blockjob assigned/.exec(words)?.[1] ?? null;
}

/** What to do about the job that holds a disk. */
export function blockJobAdvice(domain: string, target: string): string {
  const job = `virsh blockjob ${asShellWord(domain)} ${target}`;
  return `Wait until its block job has ended (${job} --info), or end it: ${job} --abort, where a copy that is ready is taken over with --pivot. Or leave the disk out: --exclude ${target}`;
}
