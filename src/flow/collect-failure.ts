import type { Failure } from '../core/failure.js';
import { QmpBackupError } from '../errors.js';

/** What cannot be looked at is a finding, and the rest is looked at all the same. */
export async function collectFailure<T>(look: Promise<T>): Promise<T | Failure> {
  try {
    return await look;
  } catch (error) {
    if (!(error instanceof QmpBackupError) || error.code === 'interrupted') throw error;
    return { failed: error.message, hint: error.hint ?? null };
  }
}
