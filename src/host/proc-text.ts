import { readFileSync } from 'node:fs';
import { codeOf } from './file-errors.js';

/** What /proc tells of a process; empty where it has ended (also between being found and being looked at: ESRCH), or is not ours to look at. */
export function readProc(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    const code = codeOf(error);
    if (code === 'ENOENT' || code === 'ESRCH' || code === 'EACCES' || code === 'EPERM') return '';
    throw error;
  }
}
