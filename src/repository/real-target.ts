import { realpath } from 'node:fs/promises';
import { messageOf, QmpBackupError } from '../errors.js';

/** @throws QmpBackupError `no-catalog` where there is no such folder */
export async function realTarget(target: string): Promise<string> {
  try {
    return await realpath(target);
  } catch (error) {
    throw new QmpBackupError('no-catalog', `${target} cannot be opened: ${messageOf(error)}`, {
      cause: error,
      hint: 'Give the folder that holds catalog.json: --target DIR',
    });
  }
}
