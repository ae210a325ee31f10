import { resolve } from 'node:path';
import type { PointDisk } from '../../core/point.js';
import { type Warning, warning } from '../../core/warning.js';
import { eachDisk, endingTogether } from '../../flow/all-of.js';
import { warnOfSpace } from '../../host/warn-of-space.js';
import type { Staging } from '../../repository/staging.js';
import { readTarget } from '../../repository/target.js';
import { type ImportFile, importFile } from './import-file.js';
import {
  catalogOf,
  type ImportResult,
  type ImportRun,
  journalOf,
  nameAll,
  type NamedPoint,
  resultOf,
} from './import-run.js';
import { intoTarget, refuseUsedTarget } from './into-target.js';

/** The way of an import that is planned, into a target that is new. */
export async function carryOutImport(run: ImportRun): Promise<ImportResult> {
  if (run.vm.name === null && run.vm.label === null) {
    const why = 'nothing tells which VM it is of, and a backup into the target has to know: give --vm-name';
    warnIn(run, warning('vm-unknown', why));
  }
  return run.options.dryRun ? dryRun(run) : perform(run);
}

export function warnIn({ context }: Pick<ImportRun, 'context'>, said: Warning): void {
  context.report({ kind: 'warning', ...said });
}

async function dryRun(run: ImportRun): Promise<ImportResult> {
  refuseUsedTarget(await readTarget(run.target, false));
  return resultOf(run, await nameAll(run), new Map());
}

function perform(run: ImportRun): Promise<ImportResult> {
  const { target, options, context, need } = run;
  const { breakLock, source } = options;
  const warn = (said: Warning): void => warnIn(run, said);
  const place = { target, breakLock, purpose: `import of ${source}`, signal: context.signal, warn };
  return intoTarget(place, async ({ state, signal, seal }) => {
    refuseUsedTarget(state);
    await warnOfSpace(target, { need, what: 'the import' }, { signal, warn });
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
  const { options, context, target, kind } = run;
  const entries = new Map<ImportFile, PointDisk>();
  const { signal, step } = endingTogether(outer);
  for (const [index, { files }] of points.entries()) {
    await eachDisk(files, async (file) => {
      const { name } = file.from;
      context.report({ kind: 'importing', point: index + 1, of: points.length, file: name });
      const fileOptions = {
        source: resolve(options.source),
        target,
        digests: options.digests,
        signal,
        onProgress: (percent: number) => context.report({ kind: 'progress', file: name, percent }),
      };
      const entry = await step(importFile(staging, file, kind, fileOptions));
      if (entry.suspect !== undefined) warnIn(run, warning('suspect', `${name} is suspect: ${entry.suspect}`));
      entries.set(file, entry);
    });
  }
  return entries;
}
