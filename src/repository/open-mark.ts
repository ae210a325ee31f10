import { randomBytes } from 'node:crypto';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { printable } from '../core/printable.js';
import { QmpBackupError } from '../errors.js';
import { removeTemporary, replaceFile } from '../host/durable.js';
import { fileError } from '../host/file-errors.js';
import {
  describeOwner,
  type Fate,
  inspectProcess,
  judgeOwner,
  type LockOwner,
  parseOwner,
  thisProcess,
} from '../host/lock-owner.js';
import { ownerFor } from '../host/ownership.js';
import { readPlainFile } from '../host/plain-file.js';
import { isOpenMark, isUnfinishedMark, openMarkName } from './layout.js';

/**
 * Who has files of a target open, for longer than it holds the target's lock: `open-<id>.json` says who, by the rules of
 * locks, and which files. Backups go on beside it; whoever would change or remove such a file asks first. All of this is
 * for who holds the lock.
 */
interface OpenMark {
  readonly path: string;
  /** Undefined where the record cannot be understood: somebody, then, who has all files open. */
  readonly owner: LockOwner | undefined;
  readonly files: readonly string[] | null;
  /** What to do where the owner is not to be ended, for people. */
  readonly release: string | null;
}

/** Bytes: a thousand files of each of many disks. */
const LIMIT = 64 * 1024 * 1024;
/** Characters of another process's advice. */
const MOST_WORDS = 1000;

/**
 * Says that `owner` has `files` (`<disk>/<file>`) open from now on; what it returns takes that back, with or without the lock.
 *
 * @throws QmpBackupError as `replaceFile`
 */
export async function leaveMark(
  target: string,
  what: string,
  files: readonly string[],
  owner: LockOwner = thisProcess(what),
  release?: string,
): Promise<() => Promise<void>> {
  const path = join(target, openMarkName(randomBytes(8).toString('hex')));
  const text = JSON.stringify({ ...owner, release, files }, null, 1);
  await replaceFile(path, `${text}\n`, { mode: 0o644, owner: await ownerFor(target) });
  return () => removeMark(path);
}

/** Takes back what was said for a process that no longer needs the files. With or without the lock. */
export async function removeMarksOf(target: string, { pid, processStartTime }: LockOwner): Promise<void> {
  for (const { path, owner } of await readMarks(target)) {
    if (owner?.pid === pid && owner.processStartTime === processStartTime) await removeMark(path);
  }
}

/** Removes the marks of who is dead, and what was never one. */
export async function clearDeadMarks(target: string): Promise<void> {
  for (const mark of await readMarks(target)) if (fateOf(mark) === 'dead') await removeMark(mark.path);
  for (const name of (await readdir(target)).filter(isUnfinishedMark)) await removeMark(join(target, name));
}

export interface RefuseOptions {
  /** Who is on another host, or cannot be known, counts as dead. */
  readonly breakLock: boolean;
  /** Nothing is removed. */
  readonly dryRun: boolean;
}

/** @throws QmpBackupError `locked` where somebody has one of `files` (`<disk>/<file>`) open */
export async function refuseOpenFiles(
  target: string,
  files: readonly string[],
  { breakLock, dryRun }: RefuseOptions,
): Promise<void> {
  const asked = new Set(files);
  for (const mark of await readMarks(target)) {
    const fate = fateOf(mark);
    if (fate === 'dead' || (fate === 'elsewhere' && breakLock)) {
      if (!dryRun) await removeMark(mark.path);
      continue;
    }
    const open = mark.files ? mark.files.find((file) => asked.has(file)) : files[0];
    if (open !== undefined) throw openBy(mark, open, fate);
  }
}

function openBy({ path, owner, release }: OpenMark, file: string, fate: Fate): QmpBackupError {
  const who = owner ? describeOwner(owner) : `somebody whose record ${path} cannot be read`;
  const hint =
    fate === 'elsewhere'
      ? 'If that has surely ended, run it again with --break-lock.'
      : `Wait until it has ended, or ${release ?? `end process ${owner?.pid} there`}, then run it again.`;
  return new QmpBackupError('locked', `${file} is open: ${who}`, { hint });
}

function fateOf({ owner }: OpenMark): Fate {
  return owner ? judgeOwner(owner, thisProcess('look'), inspectProcess) : 'elsewhere';
}

async function readMarks(target: string): Promise<readonly OpenMark[]> {
  let names: readonly string[];
  try {
    names = (await readdir(target)).filter(isOpenMark);
  } catch (error) {
    throw fileError('read', target, error);
  }
  const marks: OpenMark[] = [];
  for (const name of names) {
    const path = join(target, name);
    const text = await readPlainFile(path, LIMIT, 'Remove it if nobody has the backup open.');
    // Its owner has taken it back just now.
    if (text !== undefined) marks.push(parseMark(path, text));
  }
  return marks;
}

function parseMark(path: string, text: string): OpenMark {
  const owner = parseOwner(text);
  const { files, release } = owner ? (JSON.parse(text) as Readonly<Record<string, unknown>>) : {};
  const known = Array.isArray(files) && files.every((file) => typeof file === 'string');
  const words = typeof release === 'string' ? printable(release).slice(0, MOST_WORDS) : null;
  return { path, owner, files: known ? files : null, release: words };
}

async function removeMark(path: string): Promise<void> {
  try {
    await rm(path, { force: true });
  } catch (error) {
    throw fileError('remove', path, error);
  }
  await removeTemporary(path);
}
