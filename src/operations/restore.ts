import type { Dirent } from 'node:fs';
import { lstat, readdir, realpath } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import type { Catalog } from '../domain/catalog.js';
import { describedSource } from '../domain/chain.js';
import { type ForeignDisk, planForeignRestore } from '../domain/foreign-restore.js';
import { nameOf, planRestore, type RestorePlan, type RestoreRequest } from '../domain/restore-plan.js';
import { messageOf, QmpBackupError } from '../errors.js';
import { readCatalog, requireCatalog } from '../repository/catalog-file.js';
import { replaceFile } from '../repository/durable.js';
import { checkLine } from '../repository/file-state.js';
import { readForeignFolder } from '../repository/foreign-folder.js';
import { diskFolder } from '../repository/layout.js';
import { lockTarget } from '../repository/lock.js';
import { refuseUnsealedFiles } from './dead-run.js';
import type { Definer } from './define-domain.js';
import { lockForReading } from './disk-folder.js';
import { foreignFiles, readMergeNote, refuseUnfinished } from './foreign-disk.js';
import type { MergeDeps } from './merge.js';
import { type LineFile, refuseAlteredLine } from './proven-line.js';
import {
  type DefinitionRequest,
  type DefinitionSource,
  placesFor,
  readDefinition,
  writeDefinition,
  type WrittenDefinition,
} from './restore-definition.js';
import {
  copyLine,
  defaultCopyDeps,
  makeFolder,
  promoteCopy,
  refuseExisting,
  undoneOnFailure,
} from './standalone-copy.js';
import { type Unwind, unwinding } from './unwind.js';

/**
 * Writes all disks of a point as new standalone images `<output>/<disk>.qcow2`, and `machine.json`, which tells how the
 * VM was; of a libvirt domain also its definition. All of it or nothing; the backup is only read.
 */
export interface RestoreOptions extends RestoreRequest {
  readonly target: string;
  readonly output: string;
  /** Bytes per second; undefined or 0 is no limit. */
  readonly rateLimit?: number | undefined;
  readonly breakLock: boolean;
  readonly definition: DefinitionRequest;
}

export type RestoreEvent =
  | { readonly kind: 'warning'; readonly text: string }
  | { readonly kind: 'planned'; readonly point: string; readonly disks: readonly RestoredDisk[] }
  /** `percent` of 0 to 100, of this disk. */
  | { readonly kind: 'progress'; readonly disk: string; readonly percent: number };

export interface RestoredDisk {
  readonly disk: string;
  /** Absolute path of the new image. */
  readonly path: string;
  /** The files that it is made of, FULL first. */
  readonly files: readonly string[];
  /** Bytes. */
  readonly virtualSize: number;
}

export interface RestoreResult {
  readonly output: string;
  /** The point in words. */
  readonly point: string;
  readonly disks: readonly RestoredDisk[];
  /** Path of `machine.json`. */
  readonly machine: string;
  /** Of a libvirt domain. */
  readonly definition: (WrittenDefinition & { readonly defined: boolean }) | null;
}

export interface RestoreContext {
  readonly signal: AbortSignal;
  readonly report: (event: RestoreEvent) => void;
}

export type RestoreDeps = MergeDeps;

export const defaultRestoreDeps: RestoreDeps = {
  ...defaultCopyDeps,
  lockTarget,
  readCatalog,
  readForeignFolder,
  readMergeNote,
  checkLine,
};

/**
 * @throws QmpBackupError `usage`, `no-catalog`, `locked`; `unsafe` when an image exists, the point cannot be restored,
 * or a file of it is missing, altered or hostile, by name; `failed` in qemu-img's own words. Nothing is left then.
 */
export function restore(
  options: RestoreOptions,
  context: RestoreContext,
  deps: RestoreDeps = defaultRestoreDeps,
): Promise<RestoreResult> {
  return unwinding(async (unwind) => {
    const warn = (text: string): void => context.report({ kind: 'warning', text });
    const target = await realTarget(options.target);
    const lock = await lockForReading(
      deps.lockTarget,
      target,
      { breakLock: options.breakLock, what: `restore into ${options.output}` },
      warn,
    );
    if (lock) unwind.defer(() => lock.release());
    const run: Run = {
      options,
      target,
      output: resolve(options.output),
      signal: lock ? AbortSignal.any([context.signal, lock.signal]) : context.signal,
      warn,
      context,
      deps,
    };
    const catalog = await deps.readCatalog(target);
    const source = catalog ? await recordedSource(run, catalog) : await foreignSource(run);
    const definer = await definerFor(run, source);
    const result = await undoneOnFailure((undo) => write(run, source, undo));
    if (!definer || !result.definition) return result;
    await definer.define(result.definition);
    return { ...result, definition: { ...result.definition, defined: true } };
  });
}

interface Run {
  readonly options: RestoreOptions;
  readonly target: string;
  readonly output: string;
  /** Aborts on a signal to the tool or when the lock is lost. */
  readonly signal: AbortSignal;
  readonly warn: (text: string) => void;
  readonly context: RestoreContext;
  readonly deps: RestoreDeps;
}

/** What is to be written, proven to be what was backed up. */
interface Source {
  readonly point: string;
  readonly disks: readonly SourceDisk[];
  readonly machine: object;
  readonly definition: DefinitionSource | null;
}

interface SourceDisk {
  readonly disk: string;
  /** The target of a libvirt domain's disk. */
  readonly device: string | null;
  readonly dir: string;
  readonly line: readonly LineFile[];
}

async function definerFor({ options, warn }: Run, { definition }: Source): Promise<Definer | null> {
  if (!options.definition.define || !definition) return null;
  const { openDefiner } = await import('./define-domain.js');
  return openDefiner(options.definition, definition, warn);
}

async function realTarget(target: string): Promise<string> {
  try {
    return await realpath(target);
  } catch (error) {
    throw new QmpBackupError('no-catalog', `${target} cannot be opened: ${messageOf(error)}`, {
      cause: error,
      hint: 'Give the folder that holds catalog.json: --target DIR',
    });
  }
}

// --- with a catalog --------------------------------------------------------------------------------------------------

async function recordedSource(run: Run, catalog: Catalog): Promise<Source> {
  const { options, target, signal, deps, warn } = run;
  const plan = planRestore(catalog, options);
  const point = nameOf(plan.point, catalog);
  for (const disk of plan.absent) warn(`${point} does not hold ${disk}, which has files in other points`);
  const disks: SourceDisk[] = [];
  for (const { entry, line } of plan.disks) {
    const dir = diskFolder(target, entry.disk);
    await refuseLinkedFolder(dir);
    await refuseAlteredLine({ dir, target }, line, signal, deps);
    const suspect = line.find((each) => each.suspect !== undefined);
    if (suspect) warn(`${entry.disk} is suspect: ${suspect.file} was ${suspect.suspect}`);
    disks.push({ disk: entry.disk, device: entry.source.device, dir, line });
  }
  const asked = { point: plan.point, called: point };
  return {
    ...{ point, disks, machine: machineOf(plan) },
    definition: await readDefinition(target, asked, options.definition, warn),
  };
}

/** The disks are read in their folders, which must be those of this target. */
async function refuseLinkedFolder(dir: string): Promise<void> {
  const stats = await lstat(dir).catch((error: unknown) => {
    throw new QmpBackupError('unsafe', `the folder ${dir} is missing: ${messageOf(error)}`, { cause: error });
  });
  if (stats.isDirectory()) return;
  throw new QmpBackupError('unsafe', `${dir} is not a folder, or a symbolic link`, {
    hint: 'The backup was altered. Put back the folder of the disk itself.',
  });
}

const MACHINE_SCHEMA = 1;

function machineOf({ point, disks }: RestorePlan): object {
  const { machine, createdAt, consistency, vmStatus } = point;
  return {
    schema: MACHINE_SCHEMA,
    ...machine,
    takenAt: createdAt,
    consistency,
    vmStatus,
    disks: disks.map(({ entry: { disk, virtualSize, plaintextOfEncrypted }, line }) => ({
      disk,
      file: imageName(disk),
      virtualSize,
      plaintextOfEncrypted,
      source: describedSource(line),
    })),
  };
}

// --- without one, as the Python tools leave it ------------------------------------------------------------------------

async function foreignSource(run: Run): Promise<Source> {
  const { options, target, deps, warn } = run;
  await refuseUnsealedFiles(target, undefined, null);
  const found = await foreignDisks(target, deps);
  // There is neither: say so as for any target without a backup.
  if (found.length === 0) await requireCatalog(target);
  const plan = planForeignRestore(found, options);
  plan.warnings.forEach(warn);
  const disks: SourceDisk[] = [];
  for (const { disk, dir, chain } of plan.disks) {
    refuseUnfinished(dir, await deps.readMergeNote(dir));
    disks.push({ disk, device: null, dir, line: await foreignFiles(dir, chain, undefined) });
  }
  const machine = {
    schema: MACHINE_SCHEMA,
    name: null,
    uuid: null,
    disks: disks.map(({ disk, line }) => ({
      disk,
      file: imageName(disk),
      virtualSize: line.at(-1)?.virtualSize ?? null,
    })),
  };
  const asked = { point: null, called: plan.point };
  return {
    ...{ point: plan.point, disks, machine },
    definition: await readDefinition(target, asked, options.definition, warn),
  };
}

/** Each sub-folder with backup files is a disk; a folder that holds such files itself may hold those of several. */
async function foreignDisks(target: string, deps: RestoreDeps): Promise<readonly ForeignDisk[]> {
  const own = await deps.readForeignFolder(target);
  const names = [...new Set(own.map(({ disk }) => disk))];
  const disks: ForeignDisk[] = names.map((name) => ({
    disk: name === '' ? basename(target) : name,
    dir: target,
    chains: own.filter(({ disk }) => disk === name),
  }));
  for (const entry of await foldersOf(target)) {
    const dir = join(target, entry.name);
    const chains = await deps.readForeignFolder(dir);
    if (chains.length > 0) disks.push({ disk: entry.name, dir, chains });
  }
  return disks;
}

async function foldersOf(target: string): Promise<readonly Dirent[]> {
  const entries = await readdir(target, { withFileTypes: true });
  return entries.filter((entry) => entry.isDirectory() && !entry.name.startsWith('.'));
}

// --- writing ---------------------------------------------------------------------------------------------------------

async function write(run: Run, source: Source, undo: Unwind): Promise<RestoreResult> {
  const { options, output, signal, context, deps } = run;
  const disks = source.disks.map(({ disk, line }): RestoredDisk => ({
    disk,
    path: join(output, imageName(disk)),
    files: line.map(({ file }) => file),
    virtualSize: line.at(-1)?.virtualSize ?? 0,
  }));
  const machine = join(output, 'machine.json');
  for (const path of [...disks.map((each) => each.path), machine]) await refuseExisting(path);
  const { definition } = source;
  const places = definition && (await placesFor(output, definition));
  context.report({ kind: 'planned', point: source.point, disks });

  // QEMU of libvirt runs as another user, who must get through to the disks that libvirt makes its own.
  await makeFolder(output, undo, { mode: options.definition.define ? 0o711 : 0o700 });
  for (const [index, { disk, dir, line }] of source.disks.entries()) {
    const onProgress = (percent: number): void => context.report({ kind: 'progress', disk, percent });
    const path = disks[index]?.path ?? join(output, imageName(disk));
    await copyLine(dir, line, path, { signal, rateLimit: options.rateLimit, onProgress }, undo, deps);
  }
  signal.throwIfAborted();
  for (const { path } of disks) await promoteCopy(path, undo, deps);
  const images = new Map(source.disks.map(({ disk, device }) => [device ?? disk, join(output, imageName(disk))]));
  const written = definition && places && (await writeDefinition(definition, places, images, undo));
  written?.notes.forEach(run.warn);
  await replaceFile(machine, `${JSON.stringify(source.machine, null, 2)}\n`, { mode: 0o600 });
  const { point } = source;
  return { output, point, disks, machine, definition: written && { ...written, defined: false } };
}

function imageName(disk: string): string {
  return `${disk}.qcow2`;
}
