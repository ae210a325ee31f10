import type { Catalog } from '../core/catalog.js';
import { QmpBackupError } from '../errors.js';

/** Which of its files are needed is known when it is finished. @throws QmpBackupError `unsafe` */
export function refuseHalfMerged({ points }: Catalog): void {
  const merging = points.flatMap(({ disks }) => disks).find(({ state }) => state === 'merging');
  if (!merging) return;
  throw new QmpBackupError('unsafe', `a rebase of ${merging.disk} was interrupted, and has to be finished first`, {
    hint: `Finish it: qmpbackup rebase --target DIR --disk ${merging.disk}`,
  });
}
