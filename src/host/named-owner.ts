import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { QmpBackupError } from '../errors.js';
import { fileError } from './file-errors.js';
import type { Owner } from './ownership.js';
import { runProgram } from './program.js';

const ANSWER_MS = 30_000;
const FORM = /^([^:\s]+)(?::([^:\s]+))?$/;

/**
 * `USER` or `USER:GROUP`, by names or numbers; without a group, that of the user.
 *
 * @throws QmpBackupError `usage` for who is not known; `unsafe` where this user may not give files to them
 */
export async function ownerNamed(named: string): Promise<Owner> {
  const [, user, group] = FORM.exec(named) ?? [];
  if (user === undefined) throw unknown(named, 'it is not USER or USER:GROUP');
  const entry = await entryOf('passwd', user);
  const uid = Number(entry?.[2] ?? user);
  if (!isId(uid)) throw unknown(named, `there is no user ${user}`);
  const groupEntry = group === undefined ? undefined : await entryOf('group', group);
  const gid = Number(group === undefined ? (entry?.[3] ?? NaN) : (groupEntry?.[2] ?? group));
  if (!isId(gid)) throw unknown(named, group === undefined ? `${user} has no group` : `there is no group ${group}`);
  const own = process.getuid?.();
  if (own === 0 || (own === uid && process.getgid?.() === gid)) return { uid, gid };
  throw new QmpBackupError('unsafe', `only root can give files to ${named}`, {
    hint: 'Run it as root, or leave --owner out: the files are then of the user who restores them.',
  });
}

/** The last two ids mean nobody at all to chown(2). */
function isId(id: number): boolean {
  return Number.isInteger(id) && id >= 0 && id < 2 ** 32 - 1;
}

/** The line of a database of names, whatever keeps it; undefined where it has none. */
async function entryOf(database: 'passwd' | 'group', name: string): Promise<readonly string[] | undefined> {
  const { exitCode, stdout, failure, stderr } = await runProgram('getent', [database, '--', name], {
    timeoutMs: ANSWER_MS,
  });
  if (exitCode === 0) return stdout.trim().split(':');
  if (exitCode === 2) return undefined;
  throw new QmpBackupError('failed', `getent ${database} failed: ${failure?.message ?? stderr.trim()}`);
}

function unknown(named: string, why: string): QmpBackupError {
  return new QmpBackupError('usage', `--owner ${named}: ${why}`, {
    hint: 'Give the name or the number of a user, and of a group after a colon.',
  });
}

/** @throws QmpBackupError where the file system keeps no such owner */
export async function giveTo(path: string, { uid, gid }: Owner): Promise<void> {
  try {
    const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      await handle.chown(uid, gid);
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw fileError('set the owner of', path, error);
  }
}
