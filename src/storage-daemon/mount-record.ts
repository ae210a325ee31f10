import { statSync } from 'node:fs';
import { lstat, rm, rmdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import * as v from 'valibot';
import { QmpBackupError } from '../errors.js';
import { replaceFile } from '../host/durable.js';
import { codeOf, fileError } from '../host/file-errors.js';
import { isThere } from '../host/is-there.js';
import { hasEnded, inspectProcess } from '../host/lock-owner.js';
import { fuseMounts, type Mount } from '../host/mounts.js';
import { readJsonFile } from '../host/plain-file.js';
import { isDeadMount, unmountFuse } from '../host/unmount.js';

/**
 * What a mount makes outside of its daemon's private folder is written down in there before it is made, so that whoever
 * removes that folder, be it after its opener was killed, takes it away first.
 */
const RECORD = 'mount.json';
const LIMIT = 1024 * 1024;

const fileSchema = v.object({
  path: v.string(),
  /** As the kernel numbers it; null until it is mounted. */
  device: v.nullable(v.string()),
});

const recordSchema = v.object({
  /** Absolute and real. */
  mountpoint: v.string(),
  /** The folder was not there before. */
  made: v.boolean(),
  /** Its device and inode; null until something is mounted. */
  folder: v.optional(v.nullable(v.string()), null),
  daemon: v.object({ pid: v.number(), startTime: v.string() }),
  /** Empty files, below the mounts. */
  files: v.array(fileSchema),
});

export type MountRecord = v.InferOutput<typeof recordSchema>;
export type FileOfMount = v.InferOutput<typeof fileSchema>;

export async function recordMount(folder: string, record: MountRecord): Promise<void> {
  await replaceFile(join(folder, RECORD), `${JSON.stringify(record)}\n`, { mode: 0o600 });
}

/** What is mounted from the daemon whose private folder it is. */
export async function readMount(folder: string): Promise<MountRecord | undefined> {
  const path = join(folder, RECORD);
  const value = await readJsonFile(path, LIMIT, 'Remove that folder.');
  if (value === undefined) return undefined;
  const parsed = v.safeParse(recordSchema, value);
  if (parsed.success) return parsed.output;
  throw new QmpBackupError('unsafe', `${path} is not understood by this version`, { hint: 'Remove that folder.' });
}

/** Takes away what the record tells, whatever the daemon, which nobody needs any more, is doing. */
export async function clearMount(folder: string): Promise<void> {
  const record = await readMount(folder);
  if (!record) return;
  await endDaemon(record.daemon);
  let where = record.mountpoint;
  for (const file of record.files) {
    const mounted = findMount(file, record, fuseMounts());
    if (mounted) where = dirname(mounted.point);
    await clearFile(mounted?.point ?? file.path, mounted !== undefined);
  }
  if (record.made) await removeIfEmpty(where);
}

/**
 * Where the file is mounted now: its folder may have been moved. Numbers of devices are given anew, also to a mount of a file of
 * the same name in another folder.
 */
export function findMount(
  { path, device }: FileOfMount,
  { folder }: Pick<MountRecord, 'folder'>,
  mounts: readonly Mount[],
): Mount | undefined {
  const there = mounts.findLast(({ point, device: its }) => point === path && (device === null || its === device));
  if (there || device === null) return there;
  return mounts.find(
    ({ point, device: its }) =>
      its === device && basename(point) === basename(path) && identityOfFolder(dirname(point)) === folder,
  );
}

/** By which a folder is known wherever it was moved to; null where there is none. */
export function identityOfFolder(path: string): string | null {
  const stats = statSync(path, { bigint: true, throwIfNoEntry: false });
  return stats ? `${stats.dev}:${stats.ino}` : null;
}

/** A dead mount, and the empty file below it. */
export async function clearFile(path: string, mounted: boolean): Promise<void> {
  if (mounted) {
    // Else it is somebody else's, mounted there since.
    if (!(await isDeadMount(path))) return;
    await unmountFuse(path);
  }
  try {
    const stats = await lstat(path);
    if (stats.isFile() && stats.size === 0) await rm(path);
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw fileError('remove', path, error);
  }
}

async function removeIfEmpty(folder: string): Promise<void> {
  // Where nothing can be written, one that was never made cannot be removed either (EROFS).
  if (!(await isThere(folder))) return;
  try {
    await rmdir(folder);
  } catch (error) {
    const code = codeOf(error);
    // Somebody has put something there, or has removed it.
    if (code !== 'ENOTEMPTY' && code !== 'EEXIST' && code !== 'ENOENT') throw fileError('remove', folder, error);
  }
}

const POLL_MS = 20;
/** It is told by the kernel to end when its opener does. */
const TERM_MS = 5_000;
const KILL_MS = 5_000;

async function endDaemon({ pid, startTime }: MountRecord['daemon']): Promise<void> {
  const begun = performance.now();
  let killed = false;
  while (!hasEnded(inspectProcess(pid), startTime)) {
    const ms = performance.now() - begun;
    if (ms > TERM_MS && !killed) {
      process.kill(pid, 'SIGKILL');
      killed = true;
    }
    if (ms > TERM_MS + KILL_MS) throw new QmpBackupError('failed', `process ${pid} cannot be ended`);
    await sleep(POLL_MS);
  }
}
