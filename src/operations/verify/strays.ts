import { join } from 'node:path';
import type { Catalog } from '../../core/catalog.js';
import { knownDisks } from '../../core/chain.js';
import type { Journal } from '../../core/journal.js';
import { DEFINITION_FOLDER } from '../../core/names.js';
import { accountsOf, isBackupFile, kindOf, type StrayKind } from '../../core/strays.js';
import { type TargetFinding, targetFinding } from '../../core/target-finding.js';
import { QmpBackupError } from '../../errors.js';
import { diskFoldersIn, entriesOf } from '../../repository/targets-below.js';

/** A file in a target that its catalog does not name. `folder` is empty for the target itself. */
export interface Stray {
  readonly folder: string;
  readonly file: string;
  readonly kind: StrayKind;
}

interface Strays {
  readonly strays: readonly Stray[];
  /** Folders that could not be read. */
  readonly findings: readonly TargetFinding[];
}

/** Looks through the folders of disks, those that no catalog knows too, where they have files of ours. */
export async function findStrays(
  target: string,
  catalog: Catalog | undefined,
  journal: Journal | undefined,
): Promise<Strays> {
  const accounts = accountsOf(catalog, journal);
  const disks = new Set([...knownDisks(catalog).keys(), DEFINITION_FOLDER]);
  const findings: TargetFinding[] = [];
  const inTarget = (await entriesOf(target)).filter(({ name }) => isBackupFile(name));
  const strays: Stray[] = inTarget.map(({ name }) => ({ folder: '', file: name, kind: 'stray' }));
  for (const folder of await diskFoldersIn(target)) {
    try {
      const entries = await entriesOf(join(target, folder));
      if (!disks.has(folder) && !entries.some(({ name }) => isBackupFile(name))) continue;
      for (const entry of entries) {
        const kind = kindOf(folder, entry.name, accounts);
        if (kind !== null) strays.push({ folder, file: entry.name, kind: entry.isFile() ? kind : 'foreign' });
      }
    } catch (error) {
      if (!(error instanceof QmpBackupError)) throw error;
      const todo = error.hint ?? null;
      findings.push(targetFinding({ level: 'error', subject: folder, code: 'unreadable', why: error.message, todo }));
    }
  }
  return { strays, findings };
}

type Told = Pick<TargetFinding, 'level' | 'code' | 'why' | 'todo'>;

const TOLD: Readonly<Record<StrayKind, Told>> = {
  retired: {
    level: 'info',
    code: 'left-over',
    why: 'it was merged into another file, or its point was pruned, and nothing needs it',
    todo: 'The next run that is of its kind removes it; or now: qmpbackup verify --repair --target DIR',
  },
  unsealed: {
    level: 'info',
    code: 'left-over',
    why: 'a run that died has left it, and it is in no point',
    todo: 'The next backup removes it; or now: qmpbackup recover',
  },
  partial: {
    level: 'warning',
    code: 'partial',
    why: 'it was never finished, and no run knows it',
    todo: 'It is in no point and takes space only. Remove it if no other tool is writing it.',
  },
  stray: {
    level: 'warning',
    code: 'stray',
    why: 'it has the name of a backup file, and the catalog does not know it',
    todo: 'It is in no point. If list lacks points, the catalog is an old copy; else move it out of the way.',
  },
  foreign: { level: 'info', code: 'foreign', why: 'it is no file of this program', todo: null },
};

export function strayFinding({ folder, file, kind }: Stray): TargetFinding {
  return targetFinding({ ...TOLD[kind], subject: folder === '' ? 'target' : folder, file });
}
