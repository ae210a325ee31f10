import { realpath } from 'node:fs/promises';
import { resolve } from 'node:path';
import { contextOf } from '../../backends/verb-context.js';
import type { PointDisk } from '../../core/point.js';
import { type Warning, warning } from '../../core/warning.js';
import { QmpBackupError } from '../../errors.js';
import { eachDisk, endingTogether } from '../../flow/all-of.js';
import { warnOfSpace } from '../../host/warn-of-space.js';
import { planImport } from '../../import/import-plan.js';
import { readStreamFolder } from '../../import/stream-folder.js';
import { refuseDiskFolder } from '../../repository/nesting.js';
import type { Staging } from '../../repository/staging.js';
import { readTarget } from '../../repository/target.js';
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
import { intoTarget, refuseUsedTarget } from './into-target.js';
import type { ImportOptions } from './options.js';

/**
 * Turns the folder of another tool into a chain in a new target: every backup in it a point, all of them valid at once
 * or none. The folder is only read.
 *
 * @throws QmpBackupError `no-catalog` when there is no such folder; `usage`; `locked`; `unsafe` for a target that is in
 * use, a gap, an unfinished or contradictory stream, a link; `damaged` for a stream that is not whole. Nothing is left then.
 */
export async function importStreams(options: ImportOptions, given: Partial<ImportContext>): Promise<ImportResult> {
  const context = contextOf(given);
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
  refuseUsedTarget(await readTarget(run.target, false));
  return resultOf(run, await nameAll(run), new Map());
}

function perform(run: ImportRun): Promise<ImportResult> {
  const { target, options, context } = run;
  const { breakLock, source } = options;
  const tell = (said: Warning): void => warn(run, said);
  const place = { target, breakLock, purpose: `import of ${source}`, signal: context.signal, warn: tell };
  return intoTarget(place, async ({ state, signal, seal }) => {
    refuseUsedTarget(state);
    await warnOfSpace(target, { need: spaceOf(run), what: 'the import' }, { signal, warn: tell });
    const points = await nameAll(run);
    let entries: ReadonlyMap<ImportFile, PointDisk> = new Map();
    await seal(journalOf(run, points), async (staging) => {
      entries = await writeAll(run, points, staging, signal);
      return catalogOf(run, points, entries);
    });
    return resultOf(run, points, entries);
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
