import { agreeing, counted } from '../core/counted.js';
import { stat } from 'node:fs/promises';
import type { Catalog } from '../core/catalog.js';
import type { EmptyQcow2 } from '../core/empty-qcow2.js';
import type { DigestMethod } from '../core/pieces.js';
import type { PointDisk } from '../core/point.js';
import { QmpBackupError } from '../errors.js';
import { allOf } from '../flow/all-of.js';
import { syncFile } from '../host/durable.js';
import { isEmptyImage } from '../host/empty-image.js';
import type { CheckReport } from '../qemu-tools/image-info.js';
import { check } from '../qemu-tools/steps.js';
import { readCatalog, replaceCatalog } from './catalog-file.js';
import { type DigestByPieces, digestByPieces } from './digest.js';
import { fileState } from './file-state.js';
import { keepPieceList } from './piece-list.js';
import type { Staging } from './staging.js';

/** The last two steps of every point, however its images were written: images made whole, and the catalog that names them. */
export type SealedFile = Pick<PointDisk, 'size' | 'allocated' | 'mtimeMs' | 'sha256' | 'pieces'>;

interface PartialImage {
  readonly disk: string;
  readonly file: string;
  readonly path: string;
  /** What was made before the copy, where the copy says that it wrote nothing. */
  readonly empty: EmptyQcow2 | null;
}

export interface SealOptions {
  /** Null is none. */
  readonly digests: DigestMethod | null;
  readonly signal: AbortSignal;
  /** What else must be proved of the image, while it is read anyway. */
  readonly prove?: (() => Promise<void>) | undefined;
  /** What its writer has found out already; it is not read then. */
  readonly known?: KnownImage | undefined;
}

/** Of an image that was flushed, checked and proved by who has made it. */
export interface KnownImage {
  readonly report: CheckReport;
  readonly digest: DigestByPieces;
}

/** Flushes and checks the partial image at `path`, takes its digest where wanted, and gives it its name. */
export async function sealFile(
  staging: Staging,
  { disk, file, path, empty }: PartialImage,
  { digests, signal, prove, known }: SealOptions,
): Promise<SealedFile> {
  const [damage, digest] = await allOf([
    damageIn(path, { empty, known }, signal),
    known?.digest ?? (digests && digestByPieces(path, digests, { signal })),
    prove?.(),
    // QEMU with cache=unsafe never flushes; fsync by another descriptor writes its pages out as well.
    syncFile(path),
  ]).catch(async (error: unknown) => {
    throw (await fileState(path)) ? error : vanished(disk, path, error);
  });
  if (damage !== null) {
    throw new QmpBackupError('failed', `${disk}: qemu-img check found damage in the new image: ${damage}`, {
      hint: 'The point was not kept. Check the storage of the target.',
    });
  }
  signal.throwIfAborted();
  await staging.promote(disk, file).catch(async (error: unknown) => {
    const there = (await fileState(path)) ?? (await fileState(staging.filePath(disk, file)));
    throw there ? error : vanished(disk, path, error);
  });
  const state = await fileState(staging.filePath(disk, file));
  if (!state) throw vanished(disk, staging.filePath(disk, file));
  if (digest) await keepPieceList(staging, { disk, file }, digest);
  const { size, allocated, mtimeMs } = state;
  return { size, allocated, mtimeMs, sha256: null, ...(digest && { pieces: digest.pieces }) };
}

/** QEMU deletes the image of a disk that it has for a temporary one; else somebody did. */
function vanished(disk: string, path: string, cause?: unknown): QmpBackupError {
  return new QmpBackupError('failed', `${disk}: the new image was gone before it was sealed: ${path}`, {
    cause,
    hint: 'No point was made and no change is lost. See whether something tidies the target up while a backup runs, or the disk is a temporary one (-snapshot, or an overlay made above it): QEMU deletes the backup of such a disk; leave it out with --exclude.',
  });
}

/** An image that is byte for byte what we made needs no qemu-img to say so, whose start would be a tenth of an empty increment. */
async function damageIn(
  path: string,
  { empty, known }: Pick<PartialImage, 'empty'> & Pick<SealOptions, 'known'>,
  signal: AbortSignal,
): Promise<string | null> {
  if (empty && (await isEmptyImage(path, empty))) return null;
  const [report, { size }] = await allOf([known?.report ?? check(path, { signal }), stat(path)]);
  return damageOf(report, size);
}

/**
 * In a new image nothing is wasted: a leak, or data behind the last cluster that is counted, is what a writer leaves who
 * could not write its tables when it closed the image, and did not tell.
 */
function damageOf({ corruptions, checkErrors, leaks, imageEnd }: CheckReport, size: number): string | null {
  if (corruptions > 0) return counted(corruptions, 'error');
  if (checkErrors > 0) return `${counted(checkErrors, 'place')} could not be checked`;
  if (leaks > 0) return `${counted(leaks, 'cluster')} ${agreeing(leaks, 'belongs', 'belong')} to nothing`;
  if (imageEnd !== null && size > imageEnd)
    return `${counted(size - imageEnd, 'byte')} at its end ${agreeing(size - imageEnd, 'belongs', 'belong')} to nothing`;
  return null;
}

/**
 * Once the rename has been attempted nothing is undone by guesswork: an error after it (of the folder's fsync, say) is
 * settled by reading the catalog again. Its copy is kept afterwards, beside what else there is to do (`keepCatalogCopy`).
 */
export async function commitCatalog(target: string, catalog: Catalog, point: string): Promise<void> {
  try {
    await replaceCatalog(target, catalog);
  } catch (error) {
    const now = await readCatalog(target);
    if (!now?.points.some(({ id }) => id === point)) throw error;
  }
}
