import { realpath } from 'node:fs/promises';
import { resolve } from 'node:path';
import { carryOutInTarget } from '../../backends/repair.js';
import { contextOf } from '../../backends/verb-context.js';
import type { PointDisk } from '../../core/point.js';
import { isWithoutVm, reconcile } from '../../core/reconcile.js';
import { type Warning, warning } from '../../core/warning.js';
import { messageOf, QmpBackupError } from '../../errors.js';
import { eachDisk, endingTogether } from '../../flow/all-of.js';
import { unwinding } from '../../flow/unwind.js';
import { ownerFor } from '../../host/ownership.js';
import { warnOfSpace } from '../../host/warn-of-space.js';
import { planImport } from '../../import/import-plan.js';
import { readStreamFolder } from '../../import/stream-folder.js';
import { keepCatalogCopy } from '../../repository/catalog-file.js';
import { removeJournal, writeJournal } from '../../repository/journal-file.js';
import { lockTarget } from '../../repository/lock.js';
import { refuseDiskFolder } from '../../repository/nesting.js';
import { commitCatalog } from '../../repository/seal-file.js';
import { Staging } from '../../repository/staging.js';
import { listFiles, readTarget } from '../../repository/target.js';
import {
  catalogOf,
  type ImportContext,
  type ImportResult,
  type ImportRun,
  journalOf,
  nameAll,
  type NamedPoint,
  randomId,
  resultOf,
} from './import-run.js';
import { type ImportFile, importStream } from './import-stream.js';
import { importOptions, type ImportRequest } from './options.js';

/**
 * Turns the folder of another tool into a chain in a new target: every backup in it a point, all of them valid at once
 * or none. The folder is only read.
 *
 * @throws QmpBackupError `no-catalog` when there is no such folder; `usage`; `locked`; `unsafe` for a target that is in
 * use, a gap, an unfinished or contradictory stream, a link; `damaged` for a stream that is not whole. Nothing is left then.
 */
export async function importStreams(request: ImportRequest, given: Partial<ImportContext> = {}): Promise<ImportResult> {
  const [options, context] = [importOptions(request), contextOf(given)];
  const folder = await readStreamFolder(options.source);
  const plan = planImport(folder.files, folder.runs);
  const vm = { uuid: folder.vm?.uuid ?? null, name: folder.vm?.name ?? null, label: options.label };
  const run: ImportRun = { options, context, plan, vm, target: resolve(options.target), attempt: randomId() };
  await refuseSameFolder(options.source, run.target);
  await refuseDiskFolder(run.target);
  for (const each of [...folder.warnings, ...plan.warnings]) warn(run, each);
  if (vm.name === null && vm.label === null) {
    warn(
      run,
      warning(
        'vm-unknown',
        'nothing in the folder tells which VM it is of, and a backup into the target has to know: give --vm-name',
      ),
    );
  }
  return options.dryRun ? dryRun(run) : perform(run);
}

function warn({ context }: ImportRun, said: Warning): void {
  context.report({ kind: 'warning', ...said });
}

async function dryRun(run: ImportRun): Promise<ImportResult> {
  await refuseUsedTarget(run.target);
  return resultOf(run, await nameAll(run), new Map());
}

function perform(run: ImportRun): Promise<ImportResult> {
  return unwinding(async (unwind) => {
    const { target, options, context } = run;
    const folder = new Staging(target);
    unwind.defer(() => folder.undo());
    await folder.makeTarget();
    const lock = await lockTarget(target, { breakLock: options.breakLock, purpose: `import of ${options.source}` });
    unwind.defer(() => lock.release());
    const signal = AbortSignal.any([context.signal, lock.signal]);

    await clearDeadImport(target);
    await refuseUsedTarget(target);
    const space = { need: spaceOf(run), what: 'the import' };
    await warnOfSpace(target, space, { signal, warn: (said) => warn(run, said) });
    const points = await nameAll(run);
    await writeJournal(target, journalOf(run, points));
    const staging = new Staging(target, { owner: await ownerFor(target) });
    try {
      const entries = await writeAll(run, points, staging, signal);
      await commitCatalog(target, catalogOf(run, points, entries), run.attempt);
      staging.keep();
      folder.keep();
      await Promise.all([staging.undo(), keepCatalogCopy(target), removeJournal(target)]).catch((failure: unknown) => {
        warn(run, warning('left-behind', `the import is done, but not all was tidied up (${messageOf(failure)})`));
      });
      return resultOf(run, points, entries);
    } catch (error) {
      // What cannot be undone now, the next import undoes by the journal.
      await staging
        .undo()
        .then(() => removeJournal(target))
        .catch((failure: unknown) =>
          warn(run, warning('left-behind', `the import could not be undone now (${messageOf(failure)})`)),
        );
      throw error;
    }
  });
}

/** Point by point, since each builds on the one before; the disks of a point side by side. */
async function writeAll(
  run: ImportRun,
  points: readonly NamedPoint[],
  staging: Staging,
  outer: AbortSignal,
): Promise<ReadonlyMap<ImportFile, PointDisk>> {
  const { options, context, target } = run;
  const entries = new Map<ImportFile, PointDisk>();
  const { signal, step } = endingTogether(outer);
  for (const [index, { files }] of points.entries()) {
    await eachDisk(files, async (file) => {
      const { name } = file.from;
      context.report({ kind: 'importing', point: index + 1, of: points.length, file: name });
      const streamOptions = {
        source: resolve(options.source),
        target,
        digests: options.digests,
        signal,
        onProgress: (percent: number) => context.report({ kind: 'progress', file: name, percent }),
      };
      const entry = await step(importStream(staging, file, streamOptions));
      if (entry.suspect !== undefined) {
        warn(run, warning('suspect', `${name} is suspect: ${entry.suspect}`));
      }
      entries.set(file, entry);
    });
  }
  return entries;
}

// --- the target ----------------------------------------------------------------------------------------------------------

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

async function refuseUsedTarget(target: string): Promise<void> {
  const { catalog, journal } = await readTarget(target, false);
  if (catalog) {
    throw new QmpBackupError('unsafe', `${target} is in use already: it has a catalog`, {
      hint: 'Import into a new folder.',
    });
  }
  if (journal && !isWithoutVm(journal)) {
    throw new QmpBackupError('unsafe', `a backup into ${target} died, or is under way (run.json)`, {
      hint: `Import into a new folder, or repair this one: qmpbackup recover --target ${target}`,
    });
  }
}

async function refuseSameFolder(source: string, target: string): Promise<void> {
  const real = await realpath(target).catch(() => target);
  if ((await realpath(source)) !== real) return;
  throw new QmpBackupError('usage', 'the backups cannot be imported into their own folder', {
    hint: 'Give a new folder: --target DIR',
  });
}

function spaceOf({ plan }: ImportRun): number {
  const disks = plan.points.flatMap((point) => point.disks);
  return disks.reduce((sum, { source }) => sum + (source.meta?.dataSize ?? 0), 0);
}
