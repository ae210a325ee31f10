import { dirname } from 'node:path';
import * as v from 'valibot';
import { QmpBackupError } from '../errors.js';
import { Unwind } from '../flow/unwind.js';
import { replaceFile } from '../host/durable.js';
import { readJsonFile } from '../host/plain-file.js';
import { makeFolder } from '../repository/make-folder.js';

/** Files in which the runs of a configuration remember something: what is lost with one is that alone. */

/** Bytes. */
const LIMIT = 256 * 1024 * 1024;

export interface RememberedFile<T> {
  /** Undefined where nothing is known. */
  readonly value: T | undefined;
  /** Why nothing is known although there is a file; null where that is not so. */
  readonly lost: string | null;
}

/** A file that cannot be used holds up no run: it is begun anew. */
export async function readRemembered<T>(path: string, schema: v.GenericSchema<unknown, T>): Promise<RememberedFile<T>> {
  try {
    const value = await readJsonFile(path, LIMIT, 'It is begun anew.');
    if (value === undefined) return { value: undefined, lost: null };
    const result = v.safeParse(schema, value);
    if (result.success) return { value: result.output, lost: null };
    return { value: undefined, lost: `${path} is damaged, or of another version` };
  } catch (error) {
    if (!(error instanceof QmpBackupError)) throw error;
    return { value: undefined, lost: error.message };
  }
}

/** Durably, and for its user alone. For who holds the lock on it. */
export async function writeRemembered(path: string, text: string): Promise<void> {
  // It stays.
  await makeFolder(dirname(path), new Unwind());
  await replaceFile(path, text, { mode: 0o600 });
}
