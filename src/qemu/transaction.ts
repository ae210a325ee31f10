import { fileNode, nameOfNode, qcow2Node } from '../core/block-node.js';
import { IMAGE_CLUSTER } from '../core/image-cluster.js';
import type { PlannedDisk } from '../core/plan.js';
import type { QmpClient } from '../qmp/client.js';
import { run, type TransactionAction } from '../qmp/commands.js';
import { type Fleeced, type FleecedDisk, WORK_BITMAP, workBitmapActions } from './fleece.js';
import type { TargetAio } from './probe-target.js';

/**
 * The one transaction that begins a point: per disk the new bitmap and the job, all disks at one instant. It is sent
 * as prepared text of one command so that nothing but it lies between freeze and thaw. Disks that are fleeced have their
 * jobs in a second one, when the guest goes on.
 */
export interface TransactionDisk {
  readonly planned: PlannedDisk;
  /** Absolute path of the staged image; a relative one would be looked up in QEMU's working directory. */
  readonly path: string;
  /** How QEMU writes the image; `threads` is its default. */
  readonly aio: TargetAio;
  /** Null: the job reads the disk itself. */
  readonly fleece: FleecedDisk | null;
}

/** Those of the disks that are fleeced. */
export function fleecedOf(disks: readonly TransactionDisk[]): readonly Fleeced[] {
  return disks.flatMap(({ planned, fleece }) => (fleece ? [{ planned, fleece }] : []));
}

export interface TransactionOptions {
  /** Bytes per second for each job; 0 is no limit. */
  readonly speed: number;
  readonly compress: boolean;
  /** This QEMU's drive-backup takes `on-cbw-error` (features.ts): a failing target then fails the job, not the guest's write. */
  readonly jobOnCbwError?: boolean;
  /**
   * The jobs wait, when they have copied all, to be ended one after the other (job-watch.ts). Jobs that end by themselves
   * while QEMU is busy with another one hang or abort a QEMU with iothreads (7.2, 10.0).
   */
  readonly endOneByOne?: boolean;
  /** Fleeced jobs copy one cluster at a time, where a snapshot-access node answers rightly of no more (fleece.ts). */
  readonly clusterReads?: boolean;
  /** Milliseconds until the outcome counts as unknown. */
  readonly timeoutMs: number;
}

/** When it returns, the instant of the point has passed. Disks that are fleeced have theirs by the filters, and get their jobs later. */
export async function startPoint(
  client: QmpClient,
  disks: readonly TransactionDisk[],
  options: TransactionOptions,
): Promise<void> {
  await transact(client, pointActions(disks, options), options);
}

/**
 * Starts the jobs that read snapshots. Not while the VM stands still: a job that ends while QEMU is in `cont`, because it
 * fails or somebody cancels it, aborts a QEMU with iothreads (10.0.2, `bdrv_do_drained_end`).
 */
export async function startFleecedJobs(
  client: QmpClient,
  disks: readonly TransactionDisk[],
  options: TransactionOptions,
): Promise<void> {
  await transact(client, fleecedJobActions(disks, options), options);
}

async function transact(
  client: QmpClient,
  actions: readonly TransactionAction[],
  { timeoutMs }: TransactionOptions,
): Promise<void> {
  if (actions.length > 0) await run(client, 'transaction', { actions }, { timeoutMs });
}

/**
 * Adds the new bitmaps of all disks ahead of the instant, for filters are inserted before the transaction: what the guest
 * writes in between must not be missing in both this point and the next one.
 */
export async function addBitmaps(client: QmpClient, disks: readonly TransactionDisk[]): Promise<void> {
  const actions = disks.flatMap(newBitmapActions);
  if (actions.length > 0) await run(client, 'transaction', { actions });
}

type JobOptions = Omit<TransactionOptions, 'timeoutMs'>;

/** All bitmaps first, then all jobs: a transaction that QEMU refuses at a bitmap has started no job. */
export function pointActions(disks: readonly TransactionDisk[], options: JobOptions): readonly TransactionAction[] {
  const fleeced = fleecedOf(disks);
  const bitmaps = fleeced.length > 0 ? fleeced.flatMap(workBitmapActions) : disks.flatMap(newBitmapActions);
  const jobs = disks.flatMap((disk) => (disk.fleece ? [] : [jobAction(disk, options)]));
  return [...bitmaps, ...jobs];
}

export function fleecedJobActions(
  disks: readonly TransactionDisk[],
  options: JobOptions,
): readonly TransactionAction[] {
  return disks.flatMap((disk) => (disk.fleece ? [jobAction(disk, options)] : []));
}

function jobAction(
  { planned, path, aio, fleece }: TransactionDisk,
  { speed, compress, jobOnCbwError, endOneByOne, clusterReads }: JobOptions,
): TransactionAction {
  return {
    type: 'drive-backup',
    data: {
      device: fleece?.nodes.snapshot ?? planned.source.address,
      'job-id': planned.job,
      target: targetName(path, aio),
      format: 'qcow2',
      mode: 'existing',
      ...(planned.copyBitmap === null
        ? { sync: 'full' }
        : // The parent's bitmap goes on recording: until the point is sealed nothing of it may be forgotten.
          { sync: 'bitmap', bitmap: fleece ? WORK_BITMAP : planned.copyBitmap, 'bitmap-mode': 'never' }),
      speed,
      compress,
      ...(jobOnCbwError && !fleece ? { 'on-cbw-error': 'break-snapshot' } : {}),
      ...(clusterReads && fleece ? { 'x-perf': { 'max-chunk': IMAGE_CLUSTER } } : {}),
      // The outcome stays readable after the job's end, even by a later run.
      'auto-dismiss': false,
      ...(endOneByOne ? { 'auto-finalize': false } : {}),
    },
  };
}

function newBitmapActions({ planned: { newBitmap, source } }: TransactionDisk): readonly TransactionAction[] {
  if (!newBitmap) return [];
  const { name, persistent } = newBitmap;
  return [{ type: 'block-dirty-bitmap-add', data: { node: source.address, name, persistent } }];
}

/**
 * The staged image, opened without its parents. With them attached the transaction takes 250 ms at a chain of 200;
 * without, 3 ms at 500 (QEMU 7.2). The backing link in the header stays.
 */
function targetName(path: string, aio: TargetAio): string {
  return nameOfNode(qcow2Node(fileNode(path, { aio }), null));
}
