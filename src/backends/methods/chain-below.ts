import { backingChainOf } from '../../core/chain.js';
import type { PlannedDisk } from '../../core/plan.js';
import { QmpBackupError } from '../../errors.js';
import { diskFolder, pathIn } from '../../repository/layout.js';
import type { OpenFile } from '../../repository/open-point.js';
import type { Planned } from '../backup-run.js';

/**
 * The files that a disk is compared with, FULL first; null for one that is not.
 *
 * @throws QmpBackupError `failed` where the catalog does not hold them
 */
export function chainBelow(
  target: string,
  { catalog }: Pick<Planned, 'catalog'>,
  { disk, compares, parent }: PlannedDisk,
): readonly OpenFile[] | null {
  if (!compares) return null;
  const chain = catalog && parent ? backingChainOf(catalog, parent) : { missing: 'its parent' };
  if ('missing' in chain) {
    throw new QmpBackupError('failed', `${disk} is to be compared with its newest file: ${chain.missing} is missing`);
  }
  return chain.files.map((entry) => ({ entry, path: pathIn(diskFolder(target, disk), entry.file) }));
}
