import { warning } from '../../core/warning.js';
import { QmpBackupError } from '../../errors.js';
import type { BackupRun } from '../backup-run.js';

/** Throws with `--quiesce=require`; else the point is made without a freeze, and a warning says so. */
export function unfrozen(run: BackupRun, why: string, cause?: unknown): null {
  run.signal.throwIfAborted();
  if (run.options.quiesce === 'require') {
    throw new QmpBackupError('failed', `--quiesce=require: the guest cannot be frozen: ${why}`, {
      cause,
      hint: 'Nothing was changed. --quiesce alone would go on and mark the point crash.',
    });
  }
  run.warn(warning('not-frozen', `the guest cannot be frozen: ${why}; the point is marked crash`));
  return null;
}
