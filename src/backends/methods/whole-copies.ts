import type { JournalledDisk } from '../../core/journal.js';
import { wholeFileName } from '../../core/names.js';
import type { BackupPlan } from '../../core/plan.js';
import { temporaryFolder } from '../../repository/scratch-place.js';
import type { BackupRun } from '../backup-run.js';

/** What a run that dies leaves behind of whole copies that increments are made of, for its journal. */
export function wholeCopies(
  { disks }: BackupPlan,
  { attempt }: Pick<BackupRun, 'attempt'>,
): { readonly disks: readonly JournalledDisk[]; readonly scratch: readonly string[] } {
  const compared = disks.filter(({ compares }) => compares);
  return {
    disks: compared.map(({ disk, job, file }) => ({ disk, job, bitmap: null, file: wholeFileName(file) })),
    scratch: compared.length > 0 ? [temporaryFolder(attempt)] : [],
  };
}
