import { type Catalog, newCatalog } from '../../core/catalog.js';
import type { Journal, JournalOwner } from '../../core/journal.js';
import { bitmapsOfDead } from '../../core/journal-parts.js';
import { readJournal } from '../../repository/journal-file.js';
import type { BackupRun, Planned } from '../backup-run.js';

/** What a run that died has left and no repair could remove: bitmaps of images that cannot be written now. */
export interface LeftByDeadRun {
  readonly owner: JournalOwner;
  readonly disks: Journal['disks'];
}

/** By the journal that the repair before this run has kept; this run's own journal takes its place, and has to name them too. */
export async function leftByDeadRun({ target }: BackupRun, catalog: Catalog | undefined): Promise<LeftByDeadRun> {
  const journal = await readJournal(target);
  return { owner: journal?.owner ?? { kind: 'none' }, disks: bitmapsOfDead({ journal, catalog }) };
}

/**
 * Bitmaps that belong to no file, as retired ones: once the point is sealed its catalog knows them, so that they are never a parent
 * and each later run tries again to remove them.
 */
export function retiring<P extends Planned>(
  { options, identity, context }: BackupRun,
  planned: P,
  left: LeftByDeadRun,
): P {
  const names = left.disks.flatMap(({ bitmap }) => bitmap ?? []);
  const { catalog, targetId } = planned;
  if (names.length === 0) return planned;
  const createdAt = context.now().toISOString();
  const before = catalog ?? newCatalog({ tool: options.tool, targetId, createdAt, vm: identity });
  return { ...planned, catalog: { ...before, retired: [...new Set([...before.retired, ...names])] } };
}
