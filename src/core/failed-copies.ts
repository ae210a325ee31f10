import { QmpBackupError } from '../errors.js';

/** Copies of single disks that fail once the instant has passed. */
export interface FailedCopy {
  readonly disk: string;
  /** In the words of whoever copied. */
  readonly why: string;
}

/** A target that is full is full for every disk; an NBD server tells it by the name of the error. */
const OF_ALL = /No space left on device|Disk quota exceeded|\bENOSPC\b|\bEDQUOT\b/;

/** Whether the copies of the other disks may go on where one has failed so. */
export function sparesOthers(why: string): boolean {
  return !OF_ALL.test(why);
}

/** Of a run in which `of` disks were copied. */
export function copiesFailed(failed: readonly FailedCopy[], of: number): QmpBackupError {
  const words = failed.map(({ disk, why }) => `${disk} failed: ${why}`).join('; that of ');
  const spared = failed.length < of && failed.every(({ why }) => sparesOthers(why));
  return new QmpBackupError('failed', `the backup of ${words}`, {
    hint: `${NOTHING_LOST}${spared ? ' --skip-failed-disks seals a point of the disks that can be copied.' : ''}`,
  });
}

const NOTHING_LOST = 'No point was made and no change is lost: the next run copies it all.';
