import type { FailedCopy } from '../../core/failed-copies.js';
import { partOf } from '../../core/journal-parts.js';
import type { Journal } from '../../core/journal.js';
import { dropFailed, type RepairAction } from '../../core/reconcile.js';
import type { Warning } from '../../core/warning.js';
import { listFiles } from '../../repository/target.js';
import type { BackupRun, Planned } from '../backup-run.js';
import { carryOutInTarget, type RepairableVm } from '../repair.js';

/**
 * What disks have left whose copies have failed, to be taken away before the point is sealed. Until then the journal names it, and a run that dies
 * meanwhile is undone as a whole.
 */
export async function observeFailed(
  journal: Journal,
  { target, failed }: { readonly target: string; readonly failed: readonly FailedCopy[] },
  { catalog }: Pick<Planned, 'catalog'>,
  { disks: sources, jobs }: Pick<RepairableVm, 'disks' | 'jobs'>,
): Promise<readonly RepairAction[]> {
  const theirs = partOf(journal, ({ disk }) => failed.some((each) => each.disk === disk));
  const files = await listFiles(target, theirs.madeFolders);
  return dropFailed({ catalog, sources, jobs, files }, theirs);
}

/** Of a VM in which nothing is to be taken away: their files. */
export async function removeFilesOfFailed(
  run: BackupRun,
  journal: Journal,
  planned: Pick<Planned, 'catalog'>,
  failed: readonly FailedCopy[],
): Promise<void> {
  if (failed.length === 0) return;
  const { target, warn } = run;
  const warnings: Warning[] = [];
  for (const action of await observeFailed(journal, { target, failed }, planned, { disks: [], jobs: [] })) {
    await carryOutInTarget(target, action, warnings);
  }
  warnings.forEach(warn);
}
