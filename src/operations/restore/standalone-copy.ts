import { lstat, open, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { nameOfNode, nbdNode } from '../../core/block-node.js';
import { PARTIAL_SUFFIX } from '../../core/names.js';
import { messageOf, QmpBackupError } from '../../errors.js';
import { allOf, endingTogether } from '../../flow/all-of.js';
import { Unwind } from '../../flow/unwind.js';
import { copiesInKernel } from '../../host/copies-in-kernel.js';
import { renameDurably, syncFile } from '../../host/durable.js';
import { readHeader } from '../../qemu-tools/examine.js';
import { viewOf } from '../../qemu-tools/image-view.js';
import { convert } from '../../qemu-tools/steps.js';
import { type ChainFile, refuseDamage } from '../../repository/chain-check.js';
import { findDigestFault } from '../../repository/digest.js';
import { allocatedBy } from '../../repository/file-state.js';
import { openBytes } from '../../storage-daemon/open-bytes.js';

/**
 * A new image with the state of a chain, whole under its name or not there at all. It is written beside its place as
 * `….partial`, flushed, and renamed. What is deferred on `undo` takes away everything that was made.
 */
export interface CopyOptions {
  readonly signal: AbortSignal;
  /** Bytes per second; undefined or 0 is no limit. */
  readonly rateLimit?: number | undefined;
  /** 0 to 100. */
  readonly onProgress: (percent: number) => void;
}

export interface CopyDeps {
  readonly convert: typeof convert;
  readonly findDigestFault: typeof findDigestFault;
  readonly syncFile: typeof syncFile;
  readonly renameDurably: typeof renameDurably;
}

export const defaultCopyDeps: CopyDeps = { convert, findDigestFault, syncFile, renameDurably };

/**
 * Writes the partial image of `target` (an absolute path) from a line in `dir`, FULL first, and proves meanwhile that
 * the files hold what was backed up.
 *
 * @throws QmpBackupError `damaged` for a file that does not; `failed` in qemu-img's own words
 */
export async function copyChain(
  dir: string,
  line: readonly ChainFile[],
  target: string,
  options: CopyOptions,
  undo: Unwind,
  deps: CopyDeps,
): Promise<void> {
  const partial = `${target}${PARTIAL_SUFFIX}`;
  await reserve(partial);
  undo.defer(() => rm(partial, { force: true }));
  const { signal, step } = endingTogether(options.signal);
  // A rate holds only where the bytes pass through qemu-img.
  const offload = (options.rateLimit ?? 0) === 0 && copiesInKernel(dir, dirname(target));
  await allOf([
    step(
      reading(dir, line, signal, (source) => deps.convert(source, partial, { ...options, offload, signal, cwd: dir })),
    ),
    step(refuseDamage(dir, line, { ...options, signal, besideCopy: true }, deps)),
  ]);
  // qemu-img writes without flushing.
  await deps.syncFile(partial);
  const { virtualSize, backingFile } = await readHeader(partial, partial);
  const expected = line.at(-1)?.virtualSize;
  if (virtualSize !== expected || backingFile !== null) {
    throw new QmpBackupError('failed', `${target} came out as a disk of ${virtualSize} bytes instead of ${expected}`);
  }
}

/** Above it a view takes longer to open than a daemon that holds the same files (200: 1 s, 400: 8 s), and ends at 700. */
const MOST_IN_VIEW = 200;

/** Hands `read` a source for qemu-img, in `dir`, which follows nothing that a header says. */
async function reading(
  dir: string,
  line: readonly ChainFile[],
  signal: AbortSignal,
  read: (source: string) => Promise<void>,
): Promise<void> {
  if (line.length <= MOST_IN_VIEW) return read(viewOf(line.map(({ file }) => file)));
  const exportName = 'disk';
  const paths = line.map(({ file }) => join(dir, file));
  const bytes = await openBytes([{ disk: exportName, paths }], { what: `copy of ${line.at(-1)?.file}`, signal });
  try {
    return await read(nameOfNode(nbdNode({ address: await bytes.serveNbd(), exportName })));
  } finally {
    await bytes.close();
  }
}

/** The most that the copy of a line can take, in bytes. */
export async function mostOfCopy(dir: string, line: readonly ChainFile[]): Promise<number> {
  const whole = line.at(-1)?.virtualSize ?? 0;
  if (line.some(({ compressed }) => compressed)) return whole;
  return Math.min(whole, await allocatedBy(dir, line));
}

/** Gives a finished partial image its name. */
export async function promoteCopy(target: string, undo: Unwind, deps: CopyDeps): Promise<void> {
  await refuseExisting(target);
  undo.defer(() => rm(target, { force: true }));
  await deps.renameDurably(`${target}${PARTIAL_SUFFIX}`, target);
}

/** @throws QmpBackupError `unsafe` when anything has that name. */
export async function refuseExisting(path: string): Promise<void> {
  try {
    await lstat(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') return;
    throw new QmpBackupError('unsafe', `${path} cannot be written: ${messageOf(error)}`, { cause: error });
  }
  throw new QmpBackupError('unsafe', `${path} exists already and is not overwritten`, {
    hint: 'Choose another name, or move it away.',
  });
}

async function reserve(partial: string): Promise<void> {
  try {
    await (await open(partial, 'wx', 0o600)).close();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const hint =
      code === 'EEXIST'
        ? 'Another restore is writing it, or one was killed. If none is running, remove it.'
        : 'Choose a folder that this user can write to.';
    throw new QmpBackupError('unsafe', `${partial} cannot be made: ${messageOf(error)}`, { cause: error, hint });
  }
}

/** Runs `body`; only where it fails, what it deferred is done, in reverse. */
export async function undoneOnFailure<T>(body: (undo: Unwind) => Promise<T>): Promise<T> {
  const undo = new Unwind();
  try {
    return await body(undo);
  } catch (error) {
    // What failed first is told; a failing clean-up (of a folder that others use meanwhile, say) comes after it.
    await undo.run().catch(() => undefined);
    throw error;
  }
}
