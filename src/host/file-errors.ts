import { userInfo } from 'node:os';
import { type ErrorCode, messageOf, QmpBackupError } from '../errors.js';

/** Errors of the file system in words for people: what was tried on which path, why it failed, what to do next. */

/** The `E…` code of an error that node:fs threw, or undefined for any other. */
export function codeOf(error: unknown): string | undefined {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  return typeof code === 'string' ? code : undefined;
}

/** Whether it, or an error below it, has one of these codes. */
export function isCausedBy(error: unknown, codes: readonly string[]): boolean {
  for (let each = error; each instanceof Error; each = each.cause) {
    if (codes.includes(codeOf(each) ?? '')) return true;
  }
  return false;
}

/** What is thrown where a file system is full, or what its user may take of it is taken. */
export const NO_ROOM: readonly string[] = ['ENOSPC', 'EDQUOT'];

/**
 * `action` is a verb in the infinitive ("write"). The code is `unsafe` where somebody has to change the path or its
 * rights, else `failed`; an error that is ours already is returned as it is.
 */
export function fileError(action: string, path: string, error: unknown): QmpBackupError {
  if (error instanceof QmpBackupError) return error;
  const { code, why, hint } = explain(action, error);
  return new QmpBackupError(code, `cannot ${action} ${path}: ${why}`, { hint, cause: error });
}

interface Explanation {
  readonly code: ErrorCode;
  readonly why: string;
  readonly hint: string;
}

/** Actions that need no right to write. */
const READS = /^(?:read|look)\b/;

function explain(action: string, error: unknown): Explanation {
  const words = messageOf(error);
  switch (codeOf(error)) {
    case 'EACCES':
    case 'EPERM':
      return {
        code: 'unsafe',
        why: `${words} for ${currentUser()}`,
        hint: `Give this user ${READS.test(action) ? 'read' : 'read and write'} access to that path, or run as a user who has it.`,
      };
    case 'EROFS':
      return { code: 'unsafe', why: words, hint: 'Mount that file system writable, or choose another folder.' };
    case 'ENOTDIR':
    case 'EISDIR':
    case 'EEXIST':
    case 'ELOOP':
      return { code: 'unsafe', why: words, hint: 'Something else has that name. Choose another path or move it away.' };
    case 'ENOENT':
      return { code: 'failed', why: words, hint: 'Check the path; it may have been removed or unmounted meanwhile.' };
    case 'ENOSPC':
    case 'EDQUOT':
      return { code: 'failed', why: words, hint: 'Free space on that file system, then run it again.' };
    default:
      return { code: 'failed', why: words, hint: 'Check the storage below that path (kernel log), then run it again.' };
  }
}

/** `user NAME (uid N)`. */
export function currentUser(): string {
  const uid = process.getuid?.() ?? -1;
  try {
    return `user ${userInfo().username} (uid ${uid})`;
  } catch {
    // A uid without an entry in the user database has no name to tell.
    return `uid ${uid}`;
  }
}
