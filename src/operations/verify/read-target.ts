import { describeCatalog, isOlderThan } from '../../core/catalog-copy.js';
import type { Catalog } from '../../core/catalog.js';
import type { Journal } from '../../core/journal.js';
import { type TargetFinding, targetFinding } from '../../core/target-finding.js';
import { QmpBackupError } from '../../errors.js';
import { codeOf } from '../../host/file-errors.js';
import { LostCatalog, NewerCatalog, readCatalog, readCatalogCopies } from '../../repository/catalog-file.js';
import { readJournal } from '../../repository/journal-file.js';
import { CATALOG_NAME, JOURNAL_NAME } from '../../repository/layout.js';
import { unsealedRunFinding } from '../../repository/unsealed-run.js';

/** What a target says of itself, and what is wrong with that. */
export interface ToldByTarget {
  readonly catalog: Catalog | undefined;
  /** Those that can be used, the newest first. */
  readonly copies: readonly Catalog[];
  /** There is none that will ever be read again. */
  readonly isLost: boolean;
  readonly journal: Journal | undefined;
  readonly findings: readonly TargetFinding[];
}

export async function readTold(target: string): Promise<ToldByTarget> {
  const findings: TargetFinding[] = [];
  const copies = await readCatalogCopies(target);
  let isLost = true;
  const catalog = await readCatalog(target).catch((error: unknown) => {
    findings.push(catalogFinding(error, copies));
    isLost = !(error instanceof NewerCatalog) && !isUnread(error);
    return undefined;
  });
  const journal = await readJournal(target).catch((error: unknown) => {
    const told = { level: 'warning', code: 'unreadable-journal', file: JOURNAL_NAME } as const;
    findings.push(said(error, isUnread(error) ? { ...told, level: 'error', code: 'unreadable' } : told));
    return undefined;
  });
  if (catalog) findings.push(...besideCopy(catalog, copies));
  if (journal && !catalog?.points.some(({ id }) => id === journal.attempt)) findings.push(unsealedRunFinding(journal));
  return { catalog, copies, isLost: catalog === undefined && isLost, journal, findings };
}

/** Whether it is not known what is in the file. */
function isUnread(error: unknown): boolean {
  const code = error instanceof QmpBackupError ? codeOf(error.cause) : undefined;
  return code !== undefined && code !== 'ELOOP';
}

function catalogFinding(error: unknown, [copy]: readonly Catalog[]): TargetFinding {
  const code = isUnread(error) ? 'unreadable' : error instanceof LostCatalog ? 'no-catalog' : 'bad-catalog';
  const found = said(error, { level: 'error', code, file: CATALOG_NAME });
  const mendable = copy && code !== 'unreadable' && !(error instanceof NewerCatalog);
  return mendable ? { ...found, todo: fromCopy(copy) } : found;
}

function fromCopy(copy: Catalog): string {
  return `Take it from its copy, ${describeCatalog(copy)}: qmpbackup verify --repair --target DIR`;
}

function said(error: unknown, told: Pick<TargetFinding, 'level' | 'code' | 'file'>): TargetFinding {
  if (!(error instanceof QmpBackupError)) throw error;
  const { message, hint = null } = error;
  return { ...told, subject: 'target', why: message, what: message, todo: hint };
}

function besideCopy(catalog: Catalog, copies: readonly Catalog[]): TargetFinding[] {
  const told = { level: 'error', subject: 'target', file: CATALOG_NAME } as const;
  const newer = copies.find((copy) => isOlderThan(catalog, copy));
  if (newer) {
    const why = `it is an old one, ${describeCatalog(catalog)}`;
    return [targetFinding({ ...told, code: 'old-catalog', why, todo: fromCopy(newer) })];
  }
  const other = copies.find(({ targetId }) => targetId !== catalog.targetId);
  if (!other) return [];
  const why = `it is that of another target (${catalog.targetId}) than its copy (${other.targetId})`;
  return [targetFinding({ ...told, code: 'other-catalog', why, todo: fromCopy(other) })];
}

/** `catalog.json` is not there, and files are that it should name. */
export function noCatalogFinding(): TargetFinding {
  const why = 'it is missing, and nothing else tells what is a backup here';
  const todo = 'Put back a copy of it. Without one the images can still be read by hand, each with its backing chain.';
  return targetFinding({ level: 'error', subject: 'target', code: 'no-catalog', file: CATALOG_NAME, why, todo });
}
