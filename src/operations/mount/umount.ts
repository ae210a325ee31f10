import { existsSync } from 'node:fs';
import { realpath } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { contextOf, type VerbContext } from '../../backends/verb-context.js';
import { valuesOf } from '../../core/option-rules.js';
import { QmpBackupError } from '../../errors.js';
import { codeOf, fileError } from '../../host/file-errors.js';
import { describeOwner, hasEnded, inspectProcess, judgeOwner, thisProcess } from '../../host/lock-owner.js';
import { clearDeadMounts, findMounts, type FoundMount } from '../../storage-daemon/find-mounts.js';
import { removePrivateFolder, sweepPrivateFolders } from '../../storage-daemon/private-folder.js';
import { verdictOf } from './verdict.js';
import { UMOUNT_OPTIONS, type UmountRequest } from './options.js';

export interface UmountResult {
  /** Absolute and real. */
  readonly mountpoint: string;
  /** The raw files that were there, absolute. */
  readonly files: readonly string[];
  /** It had died before, and what it had left was cleared now. */
  readonly dead: boolean;
}

export type UmountContext = VerbContext<never>;

const END_MS = 90_000;
const POLL_MS = 20;
/** From then on it proves what was read last, and takes back its mark. */
const LAST_MS = 60_000;

/**
 * Ends a `mount`, in the background or not, or clears what a killed one has left; when it answers all is gone.
 *
 * @throws QmpBackupError `failed` where nothing of ours is mounted there, or it does not end; `damaged` where something was
 * read there that is not what was backed up
 */
export async function umount(request: UmountRequest, given: Partial<UmountContext> = {}): Promise<UmountResult> {
  const { signal } = contextOf(given);
  const mountpoint = await realMountpoint(valuesOf(UMOUNT_OPTIONS, request).mountpoint);
  const found = await findMounts(mountpoint);
  let verdict: string | null = null;
  for (const each of found) {
    if (each.left) await removePrivateFolder(each.folder);
    else verdict ??= await end(each, signal);
  }
  await sweepPrivateFolders();
  const unrecorded = await clearDeadMounts(mountpoint);
  if (verdict !== null) throw new QmpBackupError('damaged', verdict, { hint: DAMAGED_HINT });
  const files = [...new Set([...found.flatMap((each) => each.files), ...unrecorded])];
  if (files.length > 0) return { mountpoint, files, dead: found.every(({ left }) => left) };
  throw new QmpBackupError('failed', `nothing is mounted at ${mountpoint} by this program and this user`, {
    hint: 'Give the folder that `qmpbackup mount` was given, as the same user and with the same TMPDIR.',
  });
}

const DAMAGED_HINT = 'All is unmounted. See what else is damaged: qmpbackup verify --target DIR --read-data';

/** What it had to say at its end. */
async function end({ folder, owner }: FoundMount, signal: AbortSignal): Promise<string | null> {
  if (!owner) throw new QmpBackupError('failed', `nobody can tell whose ${folder} is`, { hint: 'Remove that folder.' });
  if (judgeOwner(owner, thisProcess('umount'), inspectProcess) === 'elsewhere') {
    throw new QmpBackupError('locked', `it is mounted by ${describeOwner(owner)}`, { hint: 'Run it there.' });
  }
  try {
    process.kill(owner.pid, 'SIGTERM');
  } catch (error) {
    // It has ended just now.
    if (codeOf(error) !== 'ESRCH') throw error;
  }
  const until = performance.now() + END_MS;
  let verdict: string | null = null;
  while (existsSync(folder)) {
    signal.throwIfAborted();
    if (performance.now() > until) {
      throw new QmpBackupError('failed', `it did not end within ${END_MS / 1000} s: ${describeOwner(owner)}`, {
        hint: `End process ${owner.pid} (kill -9), then run this again.`,
      });
    }
    await sleep(POLL_MS);
    verdict ??= await verdictOf(owner);
    // It may have been killed meanwhile.
    await sweepPrivateFolders();
  }
  const ended = (): boolean => hasEnded(inspectProcess(owner.pid), owner.processStartTime);
  const last = performance.now() + LAST_MS;
  while (!ended() && performance.now() < last) await sleep(POLL_MS);
  return verdict ?? verdictOf(owner);
}

/** The folder may be gone, as may what is in it. */
async function realMountpoint(named: string): Promise<string> {
  const path = resolve(named);
  try {
    return existsSync(path) ? await realpath(path) : join(await realpath(dirname(path)), basename(path));
  } catch (error) {
    throw fileError('find', path, error);
  }
}
