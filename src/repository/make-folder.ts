import { existsSync } from 'node:fs';
import { mkdir, rmdir, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { messageOf, QmpBackupError } from '../errors.js';
import type { Unwind } from '../flow/unwind.js';
import { giveTo } from '../host/named-owner.js';
import type { Owner } from '../host/ownership.js';

/** Makes a folder for new images, with those above it; what was made is taken away again if it stayed empty. */
export async function makeFolder(
  path: string,
  undo: Unwind,
  { mode = 0o700, owner }: { readonly mode?: number; readonly owner?: Owner | undefined } = {},
): Promise<void> {
  try {
    await makeOne(path, undo, { mode, owner });
  } catch (error) {
    throw new QmpBackupError('unsafe', `the folder ${path} cannot be made: ${messageOf(error)}`, {
      cause: error,
      hint: 'Choose a folder that this user can write to.',
    });
  }
}

/** Not by node's own `recursive`, which never ends where a folder that is there takes no new one (/proc, node 20). */
async function makeOne(
  path: string,
  undo: Unwind,
  how: { readonly mode: number; readonly owner: Owner | undefined },
): Promise<void> {
  const { mode, owner } = how;
  try {
    await mkdir(path, { mode });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST' && (await stat(path)).isDirectory()) return;
    if (code !== 'ENOENT' || existsSync(dirname(path))) throw error;
    await makeOne(dirname(path), undo, how);
    await mkdir(path, { mode });
  }
  undo.defer(() => rmdir(path));
  if (owner) await giveTo(path, owner);
}
