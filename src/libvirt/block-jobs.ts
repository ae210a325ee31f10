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
    return (await blockJobOf(virsh, uuid, target))?.type;
  } catch (error) {
    // It has ended since it was looked at, and its jobs with it.
    if (error instanceof VirshError && error.reason === 'not-running') return undefined;
    throw error;
  }
}

export interface DiskJob {
  /** What libvirt calls it. */
  readonly type: string;
  /** Bytes. */
  readonly done: number;
  readonly total: number;
}

export const BLOCK_PULL = 'Block Pull';

/** The job of one disk, or null. @throws VirshError `not-running` */
export async function blockJobOf(virsh: Virsh, uuid: string, target: string): Promise<DiskJob | null> {
  const text = await virsh('blockjob', ['--path', target, '--info', '--raw', '--bytes'], { domain: uuid });
  const value = (key: string): string | undefined => new RegExp(`^\\s*${key}=(.+?)\\s*$`, 'm').exec(text)?.[1];
  const type = value('type');
  return type === undefined ? null : { type, done: Number(value('cur') ?? 0), total: Number(value('end') ?? 0) };
}

/** Has QEMU copy into a disk's image what is below it. `rate`: bytes per second, 0 without a limit. */
export async function startBlockPull(virsh: Virsh, uuid: string, target: string, rate: number): Promise<void> {
  await virsh('blockpull', ['--path', target, ...limitedTo(rate)], { domain: uuid });
}

/** It may end meanwhile: then nothing is limited. */
export async function limitBlockJob(virsh: Virsh, uuid: string, target: string, rate: number): Promise<void> {
  try {
    await virsh('blockjob', ['--path', target, ...limitedTo(rate)], { domain: uuid });
  } catch (error) {
    if ((await blockJobOf(virsh, uuid, target)) !== null) throw error;
  }
}

/** Of a block job that virsh begins, or has going on. */
export function limitedTo(rate: number): readonly string[] {
  return ['--bandwidth', String(rate), '--bytes'];
}

/** The disk that libvirt did not back up for its block job, in its words; null where they are about something else. */
export function heldByBlockJob(words: string): string | null {
  return /disk '([^']+)' has a blockjob assigned/.exec(words)?.[1] ?? null;
}
