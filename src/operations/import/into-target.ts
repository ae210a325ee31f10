import { carryOutInTarget } from '../../backends/repair.js';
import type { Catalog } from '../../core/catalog.js';
import type { Journal } from '../../core/journal.js';
import { isWithoutVm, reconcile } from '../../core/reconcile.js';
import { type Warn, warning } from '../../core/warning.js';
import { messageOf, QmpBackupError } from '../../errors.js';
import { unwinding } from '../../flow/unwind.js';
import { ownerFor } from '../../host/ownership.js';
import { keepCatalogCopy } from '../../repository/catalog-file.js';
import { removeJournal, writeJournal } from '../../repository/journal-file.js';
import { lockTarget } from '../../repository/lock.js';
import { commitCatalog } from '../../repository/seal-file.js';
import { Staging } from '../../repository/staging.js';
import { listFiles, readTarget, type TargetState } from '../../repository/target.js';

/** The way of points from elsewhere into a target: under its lock, by a journal, and all of them valid at once or none. */
export interface IntoTarget {
  readonly target: string;
  readonly breakLock: boolean;
  /** For whoever finds the lock held. */
  readonly purpose: string;
  readonly signal: AbortSignal;
  readonly warn: Warn;
}

export interface TargetTaken {
  /** What is there; nothing of it was left by a dead import. */
  readonly state: TargetState;
  /** Aborts when the lock is lost, too. */
  readonly signal: AbortSignal;
  /** Writes the files that the journal names, and seals them by the catalog that `write` resolves to. */
  readonly seal: (journal: Journal, write: (staging: Staging) => Promise<Catalog>) => Promise<void>;
}

/** @throws QmpBackupError `locked`; `unsafe` where a backup died in the target; what `body` throws. Nothing is left then. */
export function intoTarget<T>(run: IntoTarget, body: (taken: TargetTaken) => Promise<T>): Promise<T> {
  return unwinding(async (unwind) => {
    const { target, breakLock, purpose } = run;
    const folder = new Staging(target);
    unwind.defer(() => folder.undo());
    await folder.makeTarget();
    const lock = await lockTarget(target, { breakLock, purpose });
    unwind.defer(() => lock.release());
    const signal = AbortSignal.any([run.signal, lock.signal]);
    await clearDeadImport(target);
    const state = await readTarget(target, false);
    refuseDeadBackup(state);
    const seal: TargetTaken['seal'] = async (journal, write) => {
      await sealInto(run, journal, write);
      folder.keep();
    };
    return body({ state, signal, seal });
  });
}

async function sealInto(
  { target, warn }: IntoTarget,
  journal: Journal,
  write: (staging: Staging) => Promise<Catalog>,
): Promise<void> {
  await writeJournal(target, journal);
  const staging = new Staging(target, { owner: await ownerFor(target) });
  try {
    await commitCatalog(target, await write(staging), journal.attempt);
    staging.keep();
  } catch (error) {
    // What cannot be undone now, the next import undoes by the journal.
    await staging
      .undo()
      .then(() => removeJournal(target))
      .catch((failure: unknown) =>
        warn(warning('left-behind', `the import could not be undone now (${messageOf(failure)})`)),
      );
    throw error;
  }
  await Promise.all([staging.undo(), keepCatalogCopy(target), removeJournal(target)]).catch((failure: unknown) => {
    warn(warning('left-behind', `the import is done, but not all was tidied up (${messageOf(failure)})`));
  });
}

/** An import that died made nothing that counts. */
async function clearDeadImport(target: string): Promise<void> {
  const { catalog, journal } = await readTarget(target, false);
  if (!journal || !isWithoutVm(journal)) return;
  const files = await listFiles(
    target,
    journal.disks.map(({ disk }) => disk),
  );
  const nothing = { olderMonths: [], sources: [], jobs: [], ownNodes: [], ownExports: [], status: 'unknown' };
  for (const action of reconcile({ catalog, journal, files, ...nothing })) await carryOutInTarget(target, action, []);
}

/** What a dead backup left may be in a VM, which only another backup can ask. */
export function refuseDeadBackup({ target, journal }: TargetState): void {
  if (!journal || isWithoutVm(journal)) return;
  throw new QmpBackupError('unsafe', `a backup into ${target} died, or is under way (run.json)`, {
    hint: `Import into a new folder, or repair this one: qmpbackup recover --target ${target}`,
  });
}

export function refuseUsedTarget(state: TargetState): void {
  if (state.catalog) {
    throw new QmpBackupError('unsafe', `${state.target} is in use already: it has a catalog`, {
      hint: 'Import into a new folder.',
    });
  }
  refuseDeadBackup(state);
}
