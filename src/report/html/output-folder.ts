import { constants } from 'node:fs';
import { open, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { QmpBackupError } from '../../errors.js';
import { codeOf, fileError } from '../../host/file-errors.js';
import { MARK } from './page.js';

/** Which files in the place of a report are of earlier reports: nothing else is ever replaced or removed. */

export const INDEX = 'index.html';
const PAGE = /^(?:index|vm-.*)\.html(?:\.tmp)?$/s;

/** @throws QmpBackupError `unsafe` for a folder that holds something else, and no report */
export async function refuseOtherFolder(folder: string): Promise<void> {
  const names = await namesIn(folder);
  for (const name of names) if (PAGE.test(name)) await refuseOtherFile(join(folder, name), mayBeTorn(name));
  const other = names.find((name) => !PAGE.test(name));
  if (other === undefined || names.includes(INDEX)) return;
  throw new QmpBackupError('unsafe', `the folder ${folder} holds something else: ${other}`, {
    hint: 'Give the report a folder of its own: one that is empty, or is not there yet.',
  });
}

/** @throws QmpBackupError `unsafe` for a file that no report has written */
export async function refuseOtherFile(path: string, maybeTorn = false): Promise<void> {
  if ((await whose(path, maybeTorn)) !== 'other') return;
  throw new QmpBackupError('unsafe', `${path} is there and is no page of a report: it is not replaced`, {
    hint: 'Choose another --output, or move it away.',
  });
}

/** What a run left that died, or a page that was not flushed before a power cut. The overview is flushed, and says whose the folder is. */
function mayBeTorn(name: string): boolean {
  return name !== INDEX;
}

/** Pages of VMs that are no longer in the report, and what a run left that died. For who holds its lock. */
export async function removeOtherPages(folder: string, written: ReadonlySet<string>): Promise<readonly string[]> {
  const old = (await namesIn(folder)).filter((name) => PAGE.test(name) && !written.has(name));
  const removed: string[] = [];
  for (const name of old) {
    const path = join(folder, name);
    if ((await whose(path, mayBeTorn(name))) !== 'ours') continue;
    try {
      await rm(path);
    } catch (error) {
      throw fileError('remove', path, error);
    }
    removed.push(name);
  }
  return removed;
}

async function namesIn(folder: string): Promise<readonly string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    throw fileError('read', folder, error);
  }
}

/** By how it begins. Where it is torn, that is part of the mark, or zeros. */
async function whose(path: string, maybeTorn: boolean): Promise<'ours' | 'other' | 'nobody'> {
  try {
    const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      if (!(await handle.stat()).isFile()) return 'other';
      const { buffer, bytesRead } = await handle.read(Buffer.alloc(MARK.length), 0, MARK.length, 0);
      const begin = buffer.toString('latin1', 0, bytesRead);
      return begin === MARK || (maybeTorn && MARK.startsWith(begin.replace(/\0+$/, ''))) ? 'ours' : 'other';
    } finally {
      await handle.close();
    }
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return 'nobody';
    if (codeOf(error) === 'ELOOP') return 'other';
    throw fileError('read', path, error);
  }
}
