import type { Catalog } from '../../core/catalog.js';
import type { Journal } from '../../core/journal.js';
import { type TargetFinding, targetFinding } from '../../core/target-finding.js';
import { QmpBackupError } from '../../errors.js';
import { codeOf } from '../../host/file-errors.js';
import { readCatalog } from '../../repository/catalog-file.js';
import { readJournal } from '../../repository/journal-file.js';
import { CATALOG_NAME, JOURNAL_NAME } from '../../repository/layout.js';
import { unsealedRunFinding } from '../../repository/unsealed-run.js';

/** What a target says of itself, and what is wrong with that. */
export interface ToldByTarget {
  readonly catalog: Catalog | undefined;
  readonly journal: Journal | undefined;
  readonly findings: readonly TargetFinding[];
}

export async function readTold(target: string): Promise<ToldByTarget> {
  const findings: TargetFinding[] = [];
  const read = async <T>(file: string, reading: Promise<T>, bad: Bad): Promise<T | undefined> => {
    try {
      return await reading;
    } catch (error) {
      if (!(error instanceof QmpBackupError)) throw error;
      const isUnread = codeOf(error.cause) !== undefined && codeOf(error.cause) !== 'ELOOP';
      const code = isUnread ? 'unreadable' : bad.code;
      const level = isUnread ? 'error' : bad.level;
      const todo = error.hint ?? null;
      findings.push({ level, subject: 'target', code, file, why: error.message, what: error.message, todo });
      return undefined;
    }
  };
  const catalog = await read(CATALOG_NAME, readCatalog(target), { level: 'error', code: 'bad-catalog' });
  const journal = await read(JOURNAL_NAME, readJournal(target), { level: 'warning', code: 'unreadable-journal' });
  if (journal && !catalog?.points.some(({ id }) => id === journal.attempt)) findings.push(unsealedRunFinding(journal));
  return { catalog, journal, findings };
}

type Bad = Pick<TargetFinding, 'level' | 'code'>;

/** `catalog.json` is not there, and files are that it should name. */
export function noCatalogFinding(): TargetFinding {
  const why = 'it is missing, and nothing else tells what is a backup here';
  const todo = 'Put back a copy of it. Without one the images can still be read by hand, each with its backing chain.';
  return targetFinding({ level: 'error', subject: 'target', code: 'no-catalog', file: CATALOG_NAME, why, todo });
}
