import type { Catalog } from '../core/catalog.js';
import type { Journal } from '../core/journal.js';
import type { PointFinding } from '../core/point-findings.js';
import { QmpBackupError } from '../errors.js';
import { readJournal } from './journal-file.js';
import { listFiles } from './target.js';

/** What commands that have no VM make of the journal of a run that died: what it made is no backup, and not theirs. */

/** The journal of a run that died before its point was sealed. */
export async function unsealedRun(target: string, catalog: Catalog | undefined): Promise<Journal | undefined> {
  const journal = await readJournal(target);
  return journal && !catalog?.points.some(({ id }) => id === journal.attempt) ? journal : undefined;
}

/** What is said about such a run by commands that read points: nothing of it is in one, and the VM has to be asked to repair it. */
export function unsealedRunFinding({ startedAt }: Journal): PointFinding {
  const why = `the run of ${startedAt} died`;
  const todo = 'what it left is for the next backup, or for: qmpbackup recover';
  return { level: 'info', subject: 'target', code: 'unsealed-run', file: null, why, what: `${why}; ${todo}`, todo };
}

/**
 * Where no catalog tells what is a backup, names do, and a dead run may have given its files their names before it
 * could seal them.
 *
 * @throws QmpBackupError `no-catalog` when `target` holds such files (of `disk`, where given)
 */
export async function refuseUnsealedFiles(
  target: string,
  catalog: Catalog | undefined,
  disk: string | null,
): Promise<void> {
  const journal = await unsealedRun(target, catalog);
  const made = journal?.disks.filter((each) => disk === null || each.disk === disk) ?? [];
  const files = await listFiles(
    target,
    made.map((each) => each.disk),
  );
  const found = made.find((each) => files.get(each.disk)?.includes(each.file));
  if (!journal || !found) return;
  throw new QmpBackupError(
    'no-catalog',
    `${found.disk}/${found.file} is no backup: the run of ${journal.startedAt} that made it died before it was sealed`,
    { hint: `Take it away first: qmpbackup recover --target ${target}` },
  );
}
