import { lstat, stat } from 'node:fs/promises';
import { codeOf, fileError } from './file-errors.js';

/** Whatever it is, also a link that leads nowhere, or a file that cannot be read: whoever needs it must hear of that. */
export function isThere(path: string): Promise<boolean> {
  return answers(path, lstat);
}

/** The same of what a link leads to. */
export function isBehindLinks(path: string): Promise<boolean> {
  return answers(path, stat);
}

async function answers(path: string, look: (path: string) => Promise<unknown>): Promise<boolean> {
  try {
    await look(path);
    return true;
  } catch (error) {
    if (codeOf(error) === 'ENOENT' || codeOf(error) === 'ENOTDIR') return false;
    throw fileError('look at', path, error);
  }
}
