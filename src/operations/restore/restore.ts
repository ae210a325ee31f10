import { join, resolve } from 'node:path';
import { contextOf } from '../../backends/verb-context.js';
import { type Warn, warning } from '../../core/warning.js';
import { type Unwind, unwinding } from '../../flow/unwind.js';
import { replaceFile } from '../../host/durable.js';
import { warnOfSpace } from '../../host/warn-of-space.js';
import { readRebaseNote } from '../../import/legacy-disk.js';
import { readLegacyFolder } from '../../import/legacy-folder.js';
import { readCatalog } from '../../repository/catalog-file.js';
import { lockForReading } from '../../repository/disk-folder.js';
import { lockTarget } from '../../repository/lock.js';
import { makeFolder } from '../../repository/make-folder.js';
import { refuseBackupFolder } from '../../repository/nesting.js';
import { realTarget } from '../../repository/real-target.js';
import type { Definer } from './define-domain.js';
import { openDefiner } from './define-domain.js';
import { restoreOptions, type RestoreRequest } from './options.js';
import type { RestoreContext, RestoredDisk, RestoreDeps, RestoreResult } from './request.js';
import { placesFor, writeDefinition } from './restore-definition.js';
import { legacySource, recordedSource, type RestoreRun, type RestoreSource } from './restore-source.js';
import {
  copyChain,
  defaultCopyDeps,
  mostOfCopy,
  promoteCopy,
  refuseExisting,
  undoneOnFailure,
} from './standalone-copy.js';

export const defaultRestoreDeps: RestoreDeps = {
  ...defaultCopyDeps,
  lockTarget,
  readCatalog,
  readLegacyFolder,
  readRebaseNote,
};

/**
 * @throws QmpBackupError `usage`, `no-catalog`, `locked`; `unsafe` when an image exists, the point cannot be restored,
 * or a file of it is missing, altered or hostile, by name; `failed` in qemu-img's own words. Nothing is left then.
 */
export function restore(
  request: RestoreRequest,
  given: Partial<RestoreContext> = {},
  deps: RestoreDeps = defaultRestoreDeps,
): Promise<RestoreResult> {
  return unwinding(async (unwind) => {
    const [options, context] = [restoreOptions(request), contextOf(given)];
    const warn: Warn = (said) => context.report({ kind: 'warning', ...said });
    const target = await realTarget(options.target);
    const lock = await lockForReading(
      deps.lockTarget,
      target,
      { breakLock: options.breakLock, purpose: `restore into ${options.output}` },
      warn,
    );
    if (lock) unwind.defer(() => lock.release());
    const run: RestoreRun = {
      options,
      target,
      output: resolve(options.output),
      signal: lock ? AbortSignal.any([context.signal, lock.signal]) : context.signal,
      warn,
      context,
      deps,
    };
    await refuseBackupFolder(run.output);
    const catalog = await deps.readCatalog(target);
    const source = catalog ? await recordedSource(run, catalog) : await legacySource(run);
    const definer = await definerFor(run, source);
    const result = await undoneOnFailure((undo) => write(run, source, undo));
    if (!definer || !result.definition) return result;
    await definer.define(result.definition);
    return { ...result, definition: { ...result.definition, defined: true } };
  });
}

async function definerFor({ options, warn }: RestoreRun, { definition }: RestoreSource): Promise<Definer | null> {
  if (!options.definition.define || !definition) return null;
  return openDefiner(options.definition, definition, warn);
}

async function write(run: RestoreRun, source: RestoreSource, undo: Unwind): Promise<RestoreResult> {
  const { options, output, signal, context, deps } = run;
  const { names, leftOut } = source;
  const disks = source.disks.map(({ disk, chain }): RestoredDisk => ({
    disk,
    path: join(output, names.image(disk)),
    files: chain.map(({ file }) => file),
    virtualSize: chain.at(-1)?.virtualSize ?? 0,
  }));
  const machine = join(output, names.machine);
  for (const path of [...disks.map((each) => each.path), machine]) await refuseExisting(path);
  const { definition } = source;
  const places = definition && (await placesFor(output, definition));
  context.report({ kind: 'planned', point: source.point, disks, leftOut });
  const most = await Promise.all(source.disks.map(({ dir, chain }) => mostOfCopy(dir, chain)));
  const space = { need: most.reduce((sum, each) => sum + each, 0), what: `the restore of ${source.point}` };
  await warnOfSpace(output, space, run);

  // QEMU of libvirt runs as another user, who must get through to the disks that libvirt makes its own.
  await makeFolder(output, undo, { mode: options.definition.define ? 0o711 : 0o700 });
  for (const [index, { disk, dir, chain }] of source.disks.entries()) {
    const onProgress = (percent: number): void => context.report({ kind: 'progress', disk, percent });
    const path = disks[index]?.path ?? join(output, names.image(disk));
    await copyChain(dir, chain, path, { signal, rateLimit: options.rateLimit, onProgress }, undo, deps);
  }
  signal.throwIfAborted();
  for (const { path } of disks) await promoteCopy(path, undo, deps);
  const images = new Map(source.disks.map(({ disk, device }) => [device ?? disk, join(output, names.image(disk))]));
  const written = definition && places && (await writeDefinition(definition, places, images, undo));
  written?.notes.forEach((note) => run.warn(warning('definition-changed', note)));
  await replaceFile(machine, `${JSON.stringify(source.machine, null, 2)}\n`, { mode: 0o600 });
  const { point, lacks } = source;
  return { output, point, disks, leftOut, lacks, machine, definition: written && { ...written, defined: false } };
}
