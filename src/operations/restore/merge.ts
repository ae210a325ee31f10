import { dirname, resolve } from 'node:path';
import { contextOf, type VerbContext, type WarningEvent } from '../../backends/verb-context.js';
import type { Catalog } from '../../core/catalog.js';
import { findFile } from '../../core/chain.js';
import { refuseFindings } from '../../core/point-findings.js';
import { chainToRead, headToRead, type RebaseFile, rebaseFiles } from '../../core/rebase-plan.js';
import { type Warn, warning } from '../../core/warning.js';
import { QmpBackupError } from '../../errors.js';
import { unwinding } from '../../flow/unwind.js';
import { ownerNamed } from '../../host/named-owner.js';
import { warnOfSpace } from '../../host/warn-of-space.js';
import { chosenChain, legacyFiles, readRebaseNote, refuseUnfinished } from '../../import/legacy-disk.js';
import { readLegacyFolder } from '../../import/legacy-folder.js';
import { readCatalog } from '../../repository/catalog-file.js';
import type { ChainFile } from '../../repository/chain-check.js';
import { type DiskFolder, locateDisk, lockForReading } from '../../repository/disk-folder.js';
import { mostOfCopy } from '../../repository/file-state.js';
import { lockTarget } from '../../repository/lock.js';
import { openDisk } from '../../repository/open-point.js';
import { makeFolder } from '../../repository/make-folder.js';
import { refuseUnsealedFiles } from '../../repository/unsealed-run.js';
import { beginImage, type ImageToMake, refuseTaken } from './image-under-way.js';
import { mergeOptions, type MergeRequest } from './merge-options.js';
import { copyChain, type CopyDeps, defaultCopyDeps, promoteCopy, undoneOnFailure } from './standalone-copy.js';

/** Writes the state of one disk into a new standalone image. The backup is only read. */
export type MergeEvent =
  | WarningEvent
  | { readonly kind: 'planned'; readonly files: readonly string[] }
  /** `percent` of 0 to 100. */
  | { readonly kind: 'progress'; readonly percent: number };

export interface MergeResult {
  /** Absolute path of the new image. */
  readonly targetFile: string;
  /** The files that it was made of, FULL first. */
  readonly files: readonly string[];
  /** Bytes. */
  readonly virtualSize: number;
}

export type MergeContext = VerbContext<MergeEvent>;

export interface MergeDeps extends CopyDeps {
  readonly lockTarget: typeof lockTarget;
  readonly readCatalog: typeof readCatalog;
  readonly readLegacyFolder: typeof readLegacyFolder;
  readonly readRebaseNote: typeof readRebaseNote;
}

export const defaultMergeDeps: MergeDeps = {
  ...defaultCopyDeps,
  lockTarget,
  readCatalog,
  readLegacyFolder,
  readRebaseNote,
};

/**
 * @throws QmpBackupError `usage`, `no-catalog`, `locked`; `unsafe` when the image exists, or for a missing, altered,
 * hostile or half merged file, by name; `failed` in qemu-img's own words. Nothing is left behind then.
 */
export function merge(
  request: MergeRequest,
  given: Partial<MergeContext> = {},
  deps: MergeDeps = defaultMergeDeps,
): Promise<MergeResult> {
  return unwinding(async (unwind) => {
    const [options, context] = [mergeOptions(request), contextOf(given)];
    const warn: Warn = (said) => context.report({ kind: 'warning', ...said });
    const image: ImageToMake = { path: resolve(options.targetFile), format: options.format, replaces: false };
    const { path: targetFile } = image;
    const owner = options.owner === null ? undefined : await ownerNamed(options.owner);
    await refuseTaken(targetFile);
    const folder = await locateDisk(options.dir);
    const what = `merge of ${folder.disk} into ${targetFile}`;
    const lock = await lockForReading(
      deps.lockTarget,
      folder.target,
      { breakLock: options.breakLock, purpose: what },
      warn,
    );
    if (lock) unwind.defer(() => lock.release());
    const signal = lock ? AbortSignal.any([context.signal, lock.signal]) : context.signal;

    const line = await provenChain(folder, options.until, signal, warn, deps);
    const files = line.map(({ file }) => file);
    context.report({ kind: 'planned', files });
    const source = { dir: folder.dir, line };
    const space = { need: await mostOfCopy(source), what: `the merge of ${files.at(-1)}` };
    await warnOfSpace(dirname(targetFile), space, { warn, signal });
    await undoneOnFailure(async (undo) => {
      await makeFolder(dirname(targetFile), undo, { owner });
      const underWay = await beginImage(image, source, { what, breakLock: options.breakLock }, undo);
      const onProgress = (percent: number): void => context.report({ kind: 'progress', percent });
      const { rateLimit, verify } = options;
      const copying = { signal, rateLimit, verify, owner, onProgress, proved: false };
      await copyChain(source, image, underWay, copying, deps);
      signal.throwIfAborted();
      await promoteCopy(image, underWay, undo, deps);
      await underWay.forget();
    });
    return { targetFile, files, virtualSize: line.at(-1)?.virtualSize ?? 0 };
  });
}

/** The files to read, each proven to be what was backed up and to lead nowhere else. */
async function provenChain(
  folder: DiskFolder,
  until: string | undefined,
  signal: AbortSignal,
  warn: Warn,
  deps: MergeDeps,
): Promise<readonly ChainFile[]> {
  const catalog = await deps.readCatalog(folder.target);
  const files = catalog ? rebaseFiles(catalog, folder.disk) : [];
  if (catalog && files.length > 0) {
    const { chain, findings } = await openDisk(
      folder.target,
      catalog,
      located(catalog, folder.disk, headToRead(files, until)),
      { signal },
    );
    refuseFindings(findings);
    return chain.map(({ entry }) => entry);
  }
  await refuseUnsealedFiles(folder.target, catalog, folder.disk);
  refuseUnfinished(folder.dir, await deps.readRebaseNote(folder.dir));
  const chain = chosenChain(folder.dir, await deps.readLegacyFolder(folder.dir), until);
  chain.notes.forEach((note) => warn(warning('file-ignored', note)));
  return chainToRead(await legacyFiles(folder.dir, chain, undefined), until);
}

function located(catalog: Catalog, disk: string, { file }: RebaseFile): NonNullable<ReturnType<typeof findFile>> {
  const found = findFile(catalog, disk, file);
  if (!found) throw new QmpBackupError('failed', `${file} is not in the catalog`);
  return found;
}
