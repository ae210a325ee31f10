import type { Catalog } from './catalog.js';
import { filesOf, unsealedOf } from './journal-parts.js';
import type { Journal } from './journal.js';
import { DEFINITION_FOLDER, numberInName, PARTIAL_SUFFIX } from './names.js';
import { PIECES_SUFFIX } from './pieces.js';
import { leftovers } from './rebase-plan.js';

/** What lies in the folder of a disk, or of the definition, beside what the catalog names. */
export type StrayKind =
  /** The catalog retired it: a rebase or prune died before it had removed it. */
  | 'retired'
  /** A dead run's, by its journal. */
  | 'unsealed'
  /** Never whole, and nobody's. */
  | 'partial'
  /** A backup file by its name, and nobody's. */
  | 'stray'
  /** None of ours. */
  | 'foreign';

/** `<folder>/<file>` of all that is accounted for. */
export interface Accounts {
  readonly recorded: ReadonlySet<string>;
  readonly retired: ReadonlySet<string>;
  readonly unsealed: ReadonlySet<string>;
}

export function accountsOf(catalog: Catalog | undefined, journal: Journal | undefined): Accounts {
  const merged = new Set(catalog ? leftovers(catalog).map(({ disk, file }) => `${disk}/${file}`) : []);
  const recorded = new Set([...filesOf(catalog)].filter((each) => !merged.has(each)));
  const pruned = (catalog?.retiredFiles ?? []).map(({ folder, file }) => `${folder}/${file}`);
  const retired = new Set([...merged, ...pruned.filter((each) => !recorded.has(each))]);
  const unsealed = journal ? unsealedOf(journal, catalog).disks.map(({ disk, file }) => `${disk}/${file}`) : [];
  return { recorded, retired, unsealed: new Set(unsealed.filter((each) => !recorded.has(each))) };
}

/** Null for what is recorded, and for the list of its pieces. */
export function kindOf(folder: string, file: string, { recorded, retired, unsealed }: Accounts): StrayKind | null {
  const whole = withoutEnds(file);
  const isPartial = /\.(?:partial|tmp)$/.test(file);
  const key = `${folder}/${whole}`;
  if (unsealed.has(key)) return 'unsealed';
  if (retired.has(key)) return 'retired';
  if (recorded.has(key) && !isPartial) return null;
  if (isPartial && (isBackupName(whole) || isDefinitionName(folder, whole))) return 'partial';
  return isBackupName(whole) || isDefinitionName(folder, file) ? 'stray' : 'foreign';
}

/** The file that a list or a partial file belongs to. */
function withoutEnds(file: string): string {
  const ends = [PARTIAL_SUFFIX, '.tmp', PIECES_SUFFIX];
  return ends.reduce((name, end) => (name.endsWith(end) ? name.slice(0, -end.length) : name), file);
}

/** Whether it has the name of an image, or of what belongs to one; folders of the Python tools have other ones. */
export function isBackupFile(file: string): boolean {
  return isBackupName(withoutEnds(file));
}

function isBackupName(file: string): boolean {
  return /^(?:FULL|INC|DIFF|COPY)-\d{1,15}\.qcow2$/.test(file);
}

function isDefinitionName(folder: string, file: string): boolean {
  return folder === DEFINITION_FOLDER && numberInName(file) !== undefined;
}

/** Where `verify --repair` puts what it takes away: `stray-20261129T161200Z`. */
export function strayFolderName(now: string): string {
  return `stray-${now.replace(/\.\d+/, '').replace(/[-:]/g, '')}`;
}

export function isStrayFolder(name: string): boolean {
  return /^stray-\d{8}T\d{6}Z/.test(name);
}
