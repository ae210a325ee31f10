import { isThere } from '../../host/is-there.js';
import { rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { contextOf } from '../../backends/verb-context.js';
import { type Warn, warning } from '../../core/warning.js';
import { type Unwind, unwinding } from '../../flow/unwind.js';
import { replaceFile } from '../../host/durable.js';
import { giveTo, ownerNamed } from '../../host/named-owner.js';
import { warnOfSpace } from '../../host/warn-of-space.js';
import { readRebaseNote } from '../../import/legacy-disk.js';
import { readLegacyFolder } from '../../import/legacy-folder.js';
import type { RestoredImage } from '../../libvirt/restored-domain.js';
import { type Definer, openDefiner } from '../../machine/define-domain.js';
import {
  definitionPaths,
  type DefinitionPaths,
  type DefinitionSource,
  removeDefinition,
  writeDefinition,
} from '../../machine/domain-definition.js';
import { readCatalog } from '../../repository/catalog-file.js';
import { lockForReading } from '../../repository/disk-folder.js';
import { mostOfCopy } from '../../repository/file-state.js';
import { lockTarget } from '../../repository/lock.js';
import { makeFolder } from '../../repository/make-folder.js';
import { refuseBackupFolder } from '../../repository/nesting.js';
import { realTarget } from '../../repository/real-target.js';
import { forgetFinished, refuseExisting, refuseTaken } from './image-under-way.js';
import { restoreOptions, type RestoreRequest } from './options.js';
import { type DiskPlace, findPlaces } from './places.js';
import { sizeOf } from './read-chain.js';
import type { RestoreContext, RestoredDisk, RestoreDeps, RestoreResult } from './request.js';
import { legacySource, recordedSource, type RestoreRun, type RestoreSource } from './restore-source.js';
import { defaultCopyDeps, undoneOnFailure } from './standalone-copy.js';
import { beginDisks, type DiskUnderWay, finishDisks, writeDisks } from './write-disks.js';

export const defaultRestoreDeps: RestoreDeps = {
  ...defaultCopyDeps,
  lockTarget,
  readCatalog,
  readLegacyFolder,
  readRebaseNote,
};

/**
 * @throws QmpBackupError `usage`, `no-catalog`, `locked`; `unsafe` when an image exists, the point cannot be restored,
 * or a file of it is missing, altered or hostile, by name; `failed` in qemu-img's own words. Nothing is left then, but on
 * devices.
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
    const { output } = options.places;
    const what = `restore into ${output ?? Object.values(options.places.to).join(', ')}`;
    const locking = { breakLock: options.breakLock, purpose: what };
    const lock = await lockForReading(deps.lockTarget, target, locking, warn);
    if (lock) unwind.defer(() => lock.release());
    const run: RestoreRun = {
      ...{ options, target, output, what },
      owner: options.owner === null ? undefined : await ownerNamed(options.owner),
      signal: lock ? AbortSignal.any([context.signal, lock.signal]) : context.signal,
      ...{ warn, context, deps },
    };
    if (output !== null) await refuseBackupFolder(output);
    const catalog = await deps.readCatalog(target);
    const source = catalog ? await recordedSource(run, catalog) : await legacySource(run);
    const asked = source.disks.map(({ disk, source: from }) => ({ disk, virtualSize: sizeOf(from) }));
    const places = await findPlaces(source.point, asked, source.names, options.places, unwind);
    const definer = await definerFor(run, source);
    const result = await undoneOnFailure((undo) => write(run, source, places, undo));
    if (!definer || !result.definition) return result;
    await definer.define(result.definition);
    return { ...result, definition: { ...result.definition, defined: true } };
  });
}

async function definerFor({ options, warn }: RestoreRun, { definition }: RestoreSource): Promise<Definer | null> {
  if (!options.definition.define || !definition) return null;
  return openDefiner(options.definition, definition, warn);
}

async function write(
  run: RestoreRun,
  source: RestoreSource,
  places: readonly DiskPlace[],
  undo: Unwind,
): Promise<RestoreResult> {
  const { options, output, owner, signal, context } = run;
  const { names, leftOut, point, lacks } = source;
  const machine = output === null ? null : join(output, names.machine);
  await refuseWhatIsThere(places, machine);
  const disks = source.disks.map(({ disk, source: from }, index): RestoredDisk => ({
    ...{ disk, path: places[index]?.path ?? '', format: formatOf(places[index]) },
    ...{ files: from.line.map(({ file }) => file), virtualSize: sizeOf(from) },
  }));
  context.report({ kind: 'planned', point, disks, leftOut });
  await warnOfSpaceFor(run, source, places);

  // QEMU of libvirt runs as another user, who must get through to the disks that libvirt makes its own.
  const folder = { mode: options.definition.define ? 0o711 : 0o700, owner };
  if (output !== null) await makeFolder(output, undo, folder);
  const underWay = await beginDisks(run, source, places, undo);
  const { definition } = source;
  const definitionPlaces = output === null || !definition ? null : await definitionAt(output, definition, underWay);
  await writeDisks(run, underWay);
  signal.throwIfAborted();
  await finishDisks(run, underWay, undo);
  const images = new Map(underWay.map(({ disk, device, place }) => [device ?? disk, inDefinition(place)]));
  const written =
    definition &&
    definitionPlaces &&
    (await writeDefinition(definition, definitionPlaces, { disks: images, owner }, undo));
  written?.notes.forEach((note) => run.warn(warning('definition-changed', note)));
  if (machine !== null) {
    const placed = new Map(disks.map(({ disk, path, format }) => [disk, { file: inFolder(output, path), format }]));
    const value = source.machine((disk) => placed.get(disk) ?? { file: '', format: '' });
    await replaceFile(machine, `${JSON.stringify(value, null, 2)}\n`, { mode: 0o600 });
    undo.defer(() => rm(machine, { force: true }));
    if (owner) await giveTo(machine, owner);
  }
  for (const { image } of underWay) await image?.underWay.forget();
  const done = { output, point, disks, leftOut, lacks, machine, compared: options.verify };
  return { ...done, definition: written && { ...written, defined: false } };
}

/** Where a run was killed after all was done, only what it says of itself is left, and goes. */
async function refuseWhatIsThere(places: readonly DiskPlace[], machine: string | null): Promise<void> {
  const images = places.filter((place) => place.kind === 'image');
  if (machine !== null && (await isThere(machine))) {
    for (const { path } of images) await forgetFinished(path);
  }
  for (const { path, replaces } of images) if (!replaces) await refuseTaken(path);
  if (machine !== null) await refuseExisting(machine);
}

function formatOf(place: DiskPlace | undefined): RestoredDisk['format'] {
  return place?.kind === 'image' ? place.format : 'raw';
}

function inFolder(output: string | null, path: string): string {
  return dirname(path) === output ? basename(path) : path;
}

async function warnOfSpaceFor(run: RestoreRun, { disks, point }: RestoreSource, places: readonly DiskPlace[]) {
  const needs = new Map<string, number>();
  for (const [index, { source }] of disks.entries()) {
    const place = places[index];
    if (place?.kind !== 'image') continue;
    const folder = dirname(place.path);
    needs.set(folder, (needs.get(folder) ?? 0) + (await mostOfCopy(source)));
  }
  for (const [folder, need] of needs) await warnOfSpace(folder, { need, what: `the restore of ${point}` }, run);
}

/** What a run has written of the definition that was killed when all disks were in their places is made anew. */
async function definitionAt(
  output: string,
  definition: DefinitionSource,
  underWay: readonly DiskUnderWay[],
): Promise<DefinitionPaths> {
  if (underWay.some(({ image }) => image?.underWay.found === 'image')) await removeDefinition(output, definition);
  const paths = definitionPaths(output, definition);
  for (const path of [paths.xml, paths.nvram, paths.tpm]) if (path !== null) await refuseExisting(path);
  return paths;
}

function inDefinition(place: DiskPlace): RestoredImage {
  if (place.kind === 'device') return { path: place.path, format: 'raw', isDevice: true };
  return { path: place.path, format: place.format, isDevice: false };
}
