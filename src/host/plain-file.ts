import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { messageOf, QmpBackupError } from '../errors.js';
import { codeOf, fileError } from './file-errors.js';

/**
 * The text of a regular file of at most `limit` bytes, or undefined when there is none. A backup folder may come from
 * anywhere: a link, a pipe or a monster in place of the file is refused, not followed, waited for or loaded.
 *
 * @throws QmpBackupError `unsafe` or `failed`
 */
export async function readPlainFile(path: string, limit: number, hint: string): Promise<string | undefined> {
  try {
    const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      const stats = await handle.stat();
      if (!stats.isFile()) throw new QmpBackupError('unsafe', `${path} is not a regular file`, { hint });
      if (stats.size > limit) {
        throw new QmpBackupError('unsafe', `${path} has ${stats.size} bytes, more than the ${limit} it may have`, {
          hint,
        });
      }
      // Read first and decoded at once: else each piece of it is, which takes longer than the reading.
      return (await handle.readFile()).toString('utf8');
    } finally {
      await handle.close();
    }
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    if (codeOf(error) === 'ELOOP') {
      throw new QmpBackupError('unsafe', `${path} is a symbolic link and is not followed`, { hint, cause: error });
    }
    throw fileError('read', path, error);
  }
}

/** What `readPlainFile` finds, as JSON; undefined when there is no file. Text that is no JSON is `unsafe` too. */
export function readJsonFile(path: string, limit: number, hint: string): Promise<unknown> {
  return readParsed<unknown>(path, limit, hint, JSON.parse);
}

/** What `parse`, which throws a SyntaxError for what is no JSON, makes of the text that `readPlainFile` finds. */
export async function readParsed<T>(
  path: string,
  limit: number,
  hint: string,
  parse: (text: string) => T,
): Promise<T | undefined> {
  const text = await readPlainFile(path, limit, hint);
  if (text === undefined) return undefined;
  try {
    return parse(text);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw new QmpBackupError('unsafe', `${path} is damaged: ${messageOf(error)}`, { hint, cause: error });
  }
}
