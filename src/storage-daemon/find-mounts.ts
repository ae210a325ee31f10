import { dirname } from 'node:path';
import type { LockOwner } from '../host/lock-owner.js';
import { fuseMounts } from '../host/mounts.js';
import { isDeadMount } from '../host/unmount.js';
import { clearFile, readMount } from './mount-record.js';
import { privateFolders } from './private-folder.js';

export interface FoundMount {
  /** Its daemon's private folder, which is there until the mount has ended. */
  readonly folder: string;
  readonly owner: LockOwner | undefined;
  /** Its owner is dead. */
  readonly left: boolean;
  /** The files, absolute. */
  readonly files: readonly string[];
}

/** Mounts of this user at that folder, by their records. */
export async function findMounts(mountpoint: string): Promise<readonly FoundMount[]> {
  const found: FoundMount[] = [];
  for (const { folder, owner, left } of await privateFolders()) {
    const record = await readMount(folder);
    if (record?.mountpoint !== mountpoint) continue;
    found.push({ folder, owner, left, files: record.files.map(({ path }) => path) });
  }
  return found;
}

/** Dead mounts at that folder of which no record is left, with the empty files below; gives their paths. */
export async function clearDeadMounts(mountpoint: string): Promise<readonly string[]> {
  const cleared: string[] = [];
  for (const { point } of fuseMounts()) {
    if (dirname(point) !== mountpoint || !point.endsWith('.raw') || !(await isDeadMount(point))) continue;
    await clearFile(point, true);
    cleared.push(point);
  }
  return cleared;
}
