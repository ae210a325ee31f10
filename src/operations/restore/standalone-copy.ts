import { constants } from 'node:fs';
import { open, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { type BlockNodeSpec, fileNode, nameOfNode, qcow2Node, windowOf } from '../../core/block-node.js';
import { QmpBackupError } from '../../errors.js';
import { allOf, endingTogether } from '../../flow/all-of.js';
import { Unwind } from '../../flow/unwind.js';
import type { ClaimedDevice } from '../../host/block-device.js';
import { copiesInKernel } from '../../host/copies-in-kernel.js';
import { renameDurably, syncFile } from '../../host/durable.js';
import { fileError } from '../../host/file-errors.js';
import { giveTo } from '../../host/named-owner.js';
import type { Owner } from '../../host/ownership.js';
import { dropFromCache } from '../../host/page-cache.js';
import { readHeader } from '../../qemu-tools/examine.js';
import { compare, convert } from '../../qemu-tools/steps.js';
import { refuseDamageOfState } from '../../repository/chain-check.js';
import { findDigestFault } from '../../repository/digest.js';
import { fileState } from '../../repository/file-state.js';
import { type ImageToMake, type ImageUnderWay, partialOf, refuseExisting } from './image-under-way.js';
import { deviceNode } from './places.js';
import { type ChainSource, readingChain, sizeOf } from './read-chain.js';

/**
 * The state of a chain as a new image, whole under its name or not there at all: it is written beside its place as
 * `….partial`, flushed, compared with what it was made of, and renamed. Or on a block device, which is written in place.
 */
export interface CopyOptions {
  readonly signal: AbortSignal;
  /** Bytes per second; undefined or 0 is no limit. */
  readonly rateLimit?: number | undefined;
  /** 0 to 100, of all that is done. */
  readonly onProgress: (percent: number) => void;
  /** Reads what was written, and compares. */
  readonly verify: boolean;
  readonly owner?: Owner | undefined;
}

export interface CopyDeps {
  readonly convert: typeof convert;
  readonly compare: typeof compare;
  readonly findDigestFault: typeof findDigestFault;
  readonly syncFile: typeof syncFile;
  readonly renameDurably: typeof renameDurably;
}

export const defaultCopyDeps: CopyDeps = { convert, compare, findDigestFault, syncFile, renameDurably };

/**
 * Writes the partial image of `image`, which has begun, and proves meanwhile that the files hold what was backed up, unless
 * they are `proved`. What a killed run has left complete is only compared, and kept where it is right.
 *
 * @throws QmpBackupError `damaged` for a file that does not; `failed` in qemu-img's own words
 */
export async function copyChain(
  source: ChainSource,
  image: ImageToMake,
  underWay: ImageUnderWay,
  options: CopyOptions & { readonly proved: boolean },
  deps: CopyDeps,
): Promise<void> {
  const { proved, owner } = options;
  const { signal, step } = endingTogether(options.signal);
  const copying = { ...options, signal };
  await allOf([
    step(readingChain(source, signal, (name) => copy(source, name, image, underWay, copying, deps))),
    ...(proved ? [] : [step(prove(source, copying, true, deps))]),
  ]);
  const path = underWay.found === 'image' ? image.path : partialOf(image.path);
  if (owner) await giveTo(path, owner);
  await underWay.complete();
}

/** @throws QmpBackupError `damaged` for the first file that does not hold what was backed up */
export function prove(
  { dir, line }: ChainSource,
  { signal, rateLimit }: Pick<CopyOptions, 'signal' | 'rateLimit'>,
  besideCopy: boolean,
  deps: CopyDeps,
): Promise<void> {
  return refuseDamageOfState(dir, line, { signal, rateLimit, besideCopy }, deps);
}

async function copy(
  source: ChainSource,
  name: string,
  image: ImageToMake,
  { found, forget }: ImageUnderWay,
  options: CopyOptions,
  deps: CopyDeps,
): Promise<void> {
  const { dir } = source;
  const { path, format } = image;
  const partial = partialOf(path);
  if (found === 'image') {
    if (
      (await hasRightSize(source, path, format)) &&
      (await isSame(name, imageNode(path, format), path, { ...options, cwd: dir }, deps))
    )
      return;
    await forget();
    throw new QmpBackupError('unsafe', `${path} is there since a restore that was killed, and has been changed since`, {
      hint: 'Move it away, or restore to another place.',
    });
  }
  if (found === 'partial') {
    const isWhole = await hasRightSize(source, partial, format);
    if (isWhole && (await isStillSame(name, imageNode(partial, format), partial, { ...options, cwd: dir }, deps)))
      return;
    await remake(partial);
  }
  const { verify, rateLimit } = options;
  // A rate holds only where the bytes pass through qemu-img.
  const offload = (rateLimit ?? 0) === 0 && copiesInKernel(dir, dirname(path));
  await deps.convert(name, partial, { ...options, ...halfOf(options, 0), format, offload, cwd: dir });
  // qemu-img writes without flushing.
  await deps.syncFile(partial);
  await refuseOtherSize(source, partial, image);
  if (!verify) return;
  const same = await isSame(
    name,
    imageNode(partial, format),
    partial,
    { ...options, ...halfOf(options, 1), cwd: dir },
    deps,
  );
  if (!same) throw notTheSame(path);
}

/**
 * Writes over every byte of a device: the disk, and zeros behind it, so that nothing of what was there is found. Its files were
 * proved before.
 *
 * @throws QmpBackupError `failed` in qemu-img's own words
 */
export async function writeDevice(
  source: ChainSource,
  device: ClaimedDevice,
  options: CopyOptions,
  deps: CopyDeps,
): Promise<void> {
  const { signal, verify } = options;
  const [size, node] = [sizeOf(source), deviceNode(device)];
  const over = { ...options, format: 'raw', over: true, direct: true, cwd: source.dir } as const;
  await readingChain(source, signal, async (name) => {
    await deps.convert(name, rawName(node), { ...over, ...halfOf(options, 0) });
    const rest = device.size - size;
    if (rest > 0) {
      const zeros = nameOfNode({ driver: 'null-co', size: rest, 'read-zeroes': true });
      const behind = nameOfNode(windowOf(node, { offset: size, length: rest }));
      await deps.convert(zeros, behind, { ...over, onProgress: undefined });
    }
    await deps.syncFile(device.path);
    if (!verify) return;
    const reading = { ...options, ...halfOf(options, 1), cwd: source.dir };
    if (!(await isSame(name, rawName(node), device.path, reading, deps))) throw notTheSame(device.path);
  });
}

/** By what the storage has, and not by what is still in memory of its writing. */
async function isSame(
  name: string,
  made: string,
  path: string,
  options: Parameters<typeof compare>[2],
  deps: CopyDeps,
): Promise<boolean> {
  await dropFromCache(path);
  return deps.compare(name, made, options);
}

/** Also false for what cannot be read: after a power cut a file may be less than it was. */
async function isStillSame(...args: Parameters<typeof isSame>): Promise<boolean> {
  try {
    return await isSame(...args);
  } catch (error) {
    args[3].signal?.throwIfAborted();
    if (error instanceof QmpBackupError) return false;
    throw error;
  }
}

function notTheSame(path: string): QmpBackupError {
  return new QmpBackupError('failed', `what was written to ${path} is not what was read from the backup`, {
    hint: 'Its storage has altered it, or somebody wrote to it meanwhile. The backup itself was proved by its digests.',
  });
}

/** Where it is also compared, one half of the progress is the copy, and the other the comparison. */
function halfOf({ verify, onProgress }: CopyOptions, half: 0 | 1): Pick<CopyOptions, 'onProgress'> {
  return { onProgress: verify ? (percent) => onProgress((percent + 100 * half) / 2) : onProgress };
}

function imageNode(path: string, format: ImageToMake['format']): string {
  return format === 'raw' ? rawName(fileNode(path)) : nameOfNode(qcow2Node(fileNode(path), null));
}

function rawName(file: BlockNodeSpec): string {
  return nameOfNode({ driver: 'raw', file });
}

/** Empty, as it was made at first. */
async function remake(partial: string): Promise<void> {
  try {
    await (await open(partial, constants.O_WRONLY | constants.O_TRUNC | constants.O_NOFOLLOW)).close();
  } catch (error) {
    throw fileError('write', partial, error);
  }
}

/** A comparison takes what an image has more for zeros. False, too, for what is no image any more. */
async function hasRightSize(source: ChainSource, path: string, format: ImageToMake['format']): Promise<boolean> {
  try {
    const { virtualSize, backingFile } = await headerOf(path, format);
    return virtualSize === sizeOf(source) && backingFile === null;
  } catch (error) {
    if (error instanceof QmpBackupError) return false;
    throw error;
  }
}

function headerOf(path: string, format: ImageToMake['format']) {
  return format === 'raw' ? rawHeader(path) : readHeader(path, path);
}

async function refuseOtherSize(source: ChainSource, partial: string, { path, format }: ImageToMake): Promise<void> {
  const expected = sizeOf(source);
  const { virtualSize, backingFile } = await headerOf(partial, format);
  if (virtualSize === expected && backingFile === null) return;
  throw new QmpBackupError('failed', `${path} came out as a disk of ${virtualSize} bytes instead of ${expected}`);
}

async function rawHeader(path: string): Promise<{ readonly virtualSize: number; readonly backingFile: null }> {
  return { virtualSize: (await fileState(path))?.size ?? 0, backingFile: null };
}

/** Gives a finished partial image its name. */
export async function promoteCopy(
  { path, replaces }: ImageToMake,
  { found }: ImageUnderWay,
  undo: Unwind,
  deps: CopyDeps,
): Promise<void> {
  if (!replaces) {
    if (found !== 'image') await refuseExisting(path);
    undo.defer(() => rm(path, { force: true }));
  }
  if (found !== 'image') await deps.renameDurably(partialOf(path), path);
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
