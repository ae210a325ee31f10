import { QmpBackupError } from '../errors.js';

/** Copies of single disks that fail once the instant has passed. */
export interface FailedCopy {
  readonly disk: string;
  /** In the words of whoever copied. */
  readonly why: string;
  /**
   * The target may have failed, and there the jobs of the other disks write what their guest overwrites before it is overwritten:
   * its writes would fail or wait with them.
   */
  readonly harmsGuest?: true;
}

/** A target that is full is full for every disk; QEMU, Node (in small letters) and an NBD server tell it in their own words. */
const OF_ALL = /No space left on device|Disk quota exceeded|\bENOSPC\b|\bEDQUOT\b/i;

/** Whether the copies of the other disks may go on where one has failed so. */
export function sparesOthers({ why, harmsGuest }: Pick<FailedCopy, 'why' | 'harmsGuest'>): boolean {
  return !OF_ALL.test(why) && harmsGuest !== true;
}

/** Of a run in which `of` disks were copied. */
export function copiesFailed(failed: readonly FailedCopy[], of: number): QmpBackupError {
  const words = failed.map(({ disk, why }) => `${disk} failed: ${why}`).join('; that of ');
  return new QmpBackupError('failed', `the backup of ${words}`, {
    hint: `${NOTHING_LOST}${failed.length < of ? ofTheOthers(failed) : ''}`,
  });
}

function ofTheOthers(failed: readonly FailedCopy[]): string {
  if (failed.some(({ why }) => !sparesOthers({ why }))) return '';
  const seals = '--skip-failed-disks seals a point of the disks that can be copied';
  if (failed.every(sparesOthers)) return ` ${seals}.`;
  return (
    ' The copies of the other disks were ended too: without fleecing the guest waits for their target before it writes, and where ' +
    `that fails its writes fail. With --fleece always ${seals}.`
  );
}

/** What the job of a disk hears that somebody has cancelled. */
export const CANCELLED = 'Operation canceled';

const NOTHING_LOST = 'No point was made and no change is lost: the next run copies it all.';
