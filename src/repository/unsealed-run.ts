import type { Catalog } from '../core/catalog.js';
import type { Journal } from '../core/journal.js';
import { QmpBackupError } from '../errors.js';
import { readJournal } from './journal-file.js';
import { listFiles } from './target.js';

/** What commands that have no VM make of the journal of a run that died: what it made is no backup, and not theirs. */

/** The journal of a run that died before its point was sealed. */
export async function unsealedRun(target: string, catalog: Catalog | undefined): Promise<Journal | undefined> {
  const journal = await readJournal(target);
  return journal && !catalog?.points.some(({ id }) => id === journal.attempt) ? journal : undefined;
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
