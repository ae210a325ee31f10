import { createHash, randomBytes } from 'node:crypto';
import { realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf, QmpBackupError } from '../errors.js';
import { removeTemporary } from '../host/durable.js';
import { codeOf, fileError } from '../host/file-errors.js';
import { describeOwner, inspectProcess, judgeOwner, type LockOwner, thisProcess } from '../host/lock-owner.js';
import { catalogCopyPath, catalogPath, journalPath, LOCK_NAME, verifiedPath } from './layout.js';
import { freeLock, type Holder, lockFileSystem, readHolder, sweepAttempts } from './lock-folder.js';
import { vmLockFolder } from './vm-lock-folder.js';

/**
 * One run at a time per target and per VM. A dead owner on this host is replaced at once, a live one never; on another
 * host, where nobody can tell, only with `--break-lock`.
 */
export interface Lock {
  /** Aborts, with the error to report as its reason, when the lock is lost: somebody broke or deleted it. */
  readonly signal: AbortSignal;
  /** Leaves nothing behind; further calls do nothing. */
  release(): Promise<void>;
}

export interface LockOptions {
  /** Take the lock also from an owner that is on another host or cannot be known. */
  readonly breakLock: boolean;
  /** What the run does, for whoever finds the lock held. */
  readonly purpose: string;
  /** It is held for a look alone. Others that look are waited for, until this aborts. */
  readonly lookUntil?: AbortSignal | undefined;
}

/**
 * Locks a target folder, which must exist.
 *
 * @throws QmpBackupError `locked` at once when another run holds it; `unsafe` or `failed` when it cannot be locked
 */
export async function lockTarget(target: string, options: LockOptions): Promise<Lock> {
  let folder: string;
  try {
    folder = await realpath(target);
  } catch (error) {
    throw fileError('lock', target, error);
  }
  const lock = await acquire(join(folder, LOCK_NAME), `the target ${target}`, options);
  try {
    // A run that died while it wrote one of them; what it wrote was not whole.
    const written = [catalogPath(folder), catalogCopyPath(folder, 1), journalPath(folder), verifiedPath(folder)];
    for (const path of written) await removeTemporary(path);
    return lock;
  } catch (error) {
    await lock.release();
    throw error;
  }
}

/**
 * Locks a folder with disks of a VM, which must exist.
 *
 * @throws QmpBackupError as `lockTarget`
 */
export async function lockFolder(folder: string, options: LockOptions): Promise<Lock> {
  try {
    return await acquire(join(await realpath(folder), LOCK_NAME), `the folder ${folder}`, options);
  } catch (error) {
    throw error instanceof QmpBackupError ? error : fileError('lock', folder, error);
  }
}

/**
 * Locks a VM. `key` is its monitor's real path or address.
 *
 * @throws QmpBackupError as `lockTarget`
 */
export function lockVm(key: string, options: LockOptions): Promise<Lock> {
  return lockByName(key, `the VM at ${key}`, options);
}

/**
 * Locks a configuration, by its absolute path: beside the locks of VMs, and not where any file system may be full.
 *
 * @throws QmpBackupError as `lockTarget`
 */
export function lockConfig(file: string, options: LockOptions): Promise<Lock> {
  return lockByName(`config ${file}`, `the configuration ${file}`, options);
}

/**
 * Locks the place of a report, by its real path: nothing of the lock lies in what others may be shown.
 *
 * @throws QmpBackupError as `lockTarget`
 */
export function lockReport(path: string, options: LockOptions): Promise<Lock> {
  return lockByName(`report ${path}`, `the report ${path}`, options);
}

async function lockByName(key: string, subject: string, options: LockOptions): Promise<Lock> {
  const name = createHash('sha256').update(key).digest('hex').slice(0, 32);
  return acquire(join(await vmLockFolder(), name), subject, options);
}

/** Who holds the lock of a target and may still be at work; null for none, or one whose owner is dead. */
export async function targetLockedBy(
  target: string,
): Promise<{ readonly who: string; readonly fate: 'alive' | 'elsewhere' } | null> {
  const holder = await readHolder(join(target, LOCK_NAME));
  if (!holder) return null;
  const fate = holder.owner ? judgeOwner(holder.owner, thisProcess('look'), inspectProcess) : 'elsewhere';
  if (fate === 'dead') return null;
  return { who: holder.owner ? describeOwner(holder.owner) : 'somebody whose record cannot be read', fate };
}

/** How often the place may be snatched away between a look and a grasp before the run gives up. */
const ATTEMPTS = 5;

/** How long all those that look before may take together, and how often it is seen whether they have. Milliseconds. */
const [LOOKS_MS, TURN_MS] = [60_000, 20];

async function acquire(path: string, subject: string, options: LockOptions): Promise<Lock> {
  const { purpose, lookUntil } = options;
  const self: LockOwner = { ...thisProcess(purpose), ...(lookUntil && { looks: true }) };
  const until = performance.now() + LOOKS_MS;
  for (let attempt = 0; attempt < ATTEMPTS;) {
    const holder = await readHolder(path);
    if (holder && lookUntil && isLook(holder, self) && performance.now() < until) {
      await sleep(TURN_MS, undefined, { signal: lookUntil }).catch(() => lookUntil.throwIfAborted());
      continue;
    }
    if (holder) await evict(path, subject, holder, self, options);
    const lock = await take(path, subject, self);
    if (lock) return lock;
    // Many may look at the same moment, and each is faster once.
    if (!lookUntil || performance.now() >= until) attempt += 1;
  }
  const holder = await readHolder(path);
  throw heldBy(subject, holder?.owner, 'Wait until it has ended, then run it again.');
}

/** Of a process that lives, and will be through with it soon. */
function isLook({ owner }: Holder, self: LockOwner): boolean {
  return owner?.looks === true && judgeOwner(owner, self, inspectProcess) === 'alive';
}

/** Frees the lock of an owner that is dead, or that the user says is; throws `locked` for any other. */
async function evict(
  path: string,
  subject: string,
  holder: Holder,
  self: LockOwner,
  options: LockOptions,
): Promise<void> {
  const fate = holder.owner ? judgeOwner(holder.owner, self, inspectProcess) : 'elsewhere';
  if (fate === 'alive') {
    const { pid, host } = holder.owner ?? self;
    const end = options.breakLock ? '--break-lock does not take it from a live run. ' : '';
    throw heldBy(subject, holder.owner, `${end}Wait until it has ended, or end process ${pid} on ${host}.`);
  }
  if (fate === 'elsewhere' && !options.breakLock) {
    const seen = new Date(holder.lastSeenMs).toISOString();
    throw heldBy(
      subject,
      holder.owner,
      `Its last sign of life was at ${seen}. If that run has surely ended, take the lock over with --break-lock.`,
    );
  }
  try {
    await freeLock(path, holder.id);
  } catch (error) {
    const why = fate === 'dead' ? ' It has ended, but this user may not remove its lock.' : '';
    throw heldBy(subject, holder.owner, `${why} Remove ${path} as its owner or as root: ${messageOf(error)}`, error);
  }
}

function heldBy(subject: string, owner: LockOwner | undefined, hint: string, cause?: unknown): QmpBackupError {
  const who = owner ? describeOwner(owner) : 'somebody whose record cannot be read';
  return new QmpBackupError('locked', `${subject} is locked by ${who}`, { hint: hint.trim(), cause });
}

/** Never by time: whether an owner lives is judged by us, before. */
const NEVER_STALE = Number.MAX_SAFE_INTEGER;
/** Milliseconds between two refreshes, and so the time until a lost lock is noticed. */
const REFRESH_MS = 2_000;

/** Takes a free lock; undefined when somebody was faster. */
async function take(path: string, subject: string, self: LockOwner): Promise<Lock | undefined> {
  const id = randomBytes(8).toString('hex');
  const lost = new AbortController();
  let held = true;
  let letGo: () => Promise<void>;
  // Loaded with the first lock: it listens for signals from then on, which a program that only imports the library must not.
  const { lock: lockFile } = await import('proper-lockfile');
  try {
    letGo = await lockFile(path, {
      lockfilePath: path,
      realpath: false,
      stale: NEVER_STALE,
      update: REFRESH_MS,
      fs: lockFileSystem(path, id, self),
      onCompromised: (error) => {
        // A refresh that was under way during the release finds nothing, rightly.
        if (held) lost.abort(lostLock(subject, error));
        held = false;
      },
    });
  } catch (error) {
    if (codeOf(error) === 'ELOCKED') return undefined;
    throw fileError('lock', subject, error);
  }
  const release = async (): Promise<void> => {
    if (!held) return;
    held = false;
    try {
      await letGo();
    } catch (error) {
      throw fileError('release the lock of', subject, error);
    }
  };
  try {
    await sweepAttempts(path);
  } catch (error) {
    await release();
    throw fileError('lock', subject, error);
  }
  return { signal: lost.signal, release };
}

function lostLock(subject: string, cause: Error): QmpBackupError {
  return new QmpBackupError('locked', `the lock of ${subject} was lost: another run broke it, or it was deleted`, {
    hint: 'Two runs at a time would damage the backup, so this one ends. Look for the other one.',
    cause,
  });
}
