import { QmpBackupError } from '../errors.js';
import { formatBytes } from './bytes.js';
import { IMAGE_CLUSTER } from './image-cluster.js';
import type { PlannedDisk } from './plan.js';

/**
 * What a plan can need on its target, and whether that is there. The need is an upper bound for what is known before
 * the run: compression is ignored, and so is what the guest changes between this look and the transaction. Only a
 * source that is compressed itself can need more. While the jobs run, the space is watched (backends/target-watch).
 * All sizes are bytes.
 */
export interface Space {
  /** What this user may still use. */
  readonly free: number;
  readonly total: number;
}

export interface SpaceNeed {
  readonly need: number;
  readonly free: number;
  readonly reserve: number;
}

/** What one L2 table of a qcow2 image with 64 KiB clusters maps. */
const PER_L2_TABLE = (IMAGE_CLUSTER / 8) * IMAGE_CLUSTER;
/** What one refcount block of 16-bit counts covers. */
const PER_REFCOUNT_BLOCK = (IMAGE_CLUSTER / 2) * IMAGE_CLUSTER;

/** Bytes that all files of the plan can take together. */
export function spaceNeeded(disks: readonly PlannedDisk[]): number {
  return disks.reduce((sum, disk) => sum + imageNeeded(disk), 0);
}

/** Data that a job of this disk can copy, and what its qcow2 image needs to map it. */
export function imageNeeded({ source, copyBitmap }: Pick<PlannedDisk, 'source' | 'copyBitmap'>): number {
  const { virtualSize } = source;
  const bitmap = source.bitmaps.find(({ name }) => name === copyBitmap);
  // What is allocated nowhere was not written either.
  const changed = bitmap?.uncounted ? Math.min(bitmap.count, source.allocated) : bitmap?.count;
  const data = copyBitmap === null ? source.allocated : (changed ?? virtualSize);
  return withMetadata(roundUp(Math.min(data, virtualSize), IMAGE_CLUSTER), virtualSize, copyBitmap === null);
}

/** The most that an image takes which holds so much data; `whole`: it builds on nothing. */
export function imageWithData(data: number, virtualSize: number, whole: boolean): number {
  return withMetadata(roundUp(data, IMAGE_CLUSTER), virtualSize, whole);
}

/** A whole copy also maps what reads as zeros; scattered changes can need a table for each of their clusters. */
function withMetadata(data: number, virtualSize: number, whole: boolean): number {
  const tables = Math.ceil(virtualSize / PER_L2_TABLE);
  const mapped = (whole ? tables : Math.min(tables, data / IMAGE_CLUSTER)) * IMAGE_CLUSTER;
  const l1 = roundUp(tables * 8, IMAGE_CLUSTER);
  const counted = data + mapped + l1;
  // The header, the refcount table and one block of counts are there from the beginning.
  return counted + (3 + Math.ceil(counted / PER_REFCOUNT_BLOCK)) * IMAGE_CLUSTER;
}

function roundUp(bytes: number, unit: number): number {
  return Math.ceil(bytes / unit) * unit;
}

const LEAST_RESERVE = 256 * 1024 * 1024;

/** What stays free where no `--reserve` was given: 256 MiB, or 1 % of a larger file system. */
export function defaultReserve({ total }: Pick<Space, 'total'>): number {
  return Math.max(LEAST_RESERVE, Math.ceil(total / 100));
}

/** After a run that needs so much there would be less than twice the reserve: others, or the guest, may use that up meanwhile. */
export function isShort({ free, need, reserve }: SpaceNeed): boolean {
  return free - need < 2 * reserve;
}

/** With less than this free no run begins, not even by `--force`: the guest writes faster than anybody looks. */
export const LEAST_FLOOR = 16 * 1024 * 1024;

/**
 * Below how much free space the jobs are cancelled. That is the reserve; only `--force` on a file system that has less
 * already goes below it.
 */
export function floorOf({ free, reserve }: Pick<SpaceNeed, 'free' | 'reserve'>): number {
  return free > reserve ? reserve : Math.min(reserve, LEAST_FLOOR);
}

/**
 * Undefined when the plan fits; with `--force` the warning to go on with.
 *
 * @throws QmpBackupError `unsafe` when it does not fit
 */
export function tooLittleSpace(
  { need, free, reserve }: SpaceNeed,
  { where, force }: { readonly where: string; readonly force: boolean },
): string | undefined {
  if (!isTight({ need, free, reserve })) return undefined;
  const numbers = `the backup can need ${spaceInWords({ need, free, reserve })}`;
  const floor = floorOf({ free, reserve });
  if (!isRefused({ need, free, reserve }, { force }))
    return `${where} may be too small: ${numbers}; going on because of --force`;
  const short = formatBytes(need - (free - reserve));
  throw new QmpBackupError('unsafe', `there is too little space on ${where}: ${numbers}`, {
    hint: force
      ? `Nothing was changed. Free ${short} there. --force does not help: with less than ${formatBytes(floor)} left, the guest's own writes could fail.`
      : `Nothing was changed. Free ${short} there, keep less with --reserve BYTES, or go on with --force: the run then ends by itself before the space is used up.`,
  });
}

/** Whether `tooLittleSpace` refuses it. */
export function isRefused(space: SpaceNeed, { force }: { readonly force: boolean }): boolean {
  return isTight(space) && !(force && space.free > floorOf(space));
}

export function spaceInWords({ need, free, reserve }: SpaceNeed): string {
  return `${formatBytes(need)}, ${formatBytes(free)} are free and ${formatBytes(reserve)} of them stay in reserve`;
}

/** Whether the run can need more than there is above the floor, as `--force` allows. */
export function isTight({ need, free, reserve }: SpaceNeed): boolean {
  return need > free - reserve;
}

/**
 * Whether the jobs are to be cancelled now. `before` is what was free at the last look: where the run is tight, as much
 * as went since then may go until the next one.
 */
export function runningOut(now: {
  readonly free: number;
  readonly before: number;
  readonly floor: number;
  readonly tight: boolean;
}): boolean {
  return now.free < now.floor || (now.tight && now.free < now.before - now.free);
}
