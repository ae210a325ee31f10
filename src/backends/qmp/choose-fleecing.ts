import { Stats } from 'node:fs';
import { stat } from 'node:fs/promises';
import { dirname, isAbsolute, join, resolve } from 'node:path';
import { chooseFleece, type FleeceChoice } from '../../core/fleece-choice.js';
import { IMAGE_CLUSTER } from '../../core/image-cluster.js';
import { DIES_OF_NBD, survivesReaders } from '../../core/iothread-exports.js';
import { fleeceNodeName, scratchFolderName } from '../../core/names.js';
import type { BackupPlan, PlannedDisk } from '../../core/plan.js';
import { defaultReserve } from '../../core/space.js';
import { messageOf, QmpBackupError } from '../../errors.js';
import { ANSWER_MS, freeSpace } from '../../host/free-space.js';
import { type QemuFeatures, readFeatures } from '../../qemu/features.js';
import type { FleecedDisk } from '../../qemu/fleece.js';
import { scratchImage } from '../../repository/scratch.js';
import type { TargetStorage } from '../backend.js';
import type { BackupOptions } from '../backup-options.js';
import type { Fleecing, QmpRun } from './run.js';

export async function chooseFleecing(run: QmpRun, plan: BackupPlan, target: TargetStorage): Promise<Fleecing> {
  const { options } = run;
  if (options.verify !== null || options.output !== null) refuseIothreads(run);
  const features = await featuresFor(run, target);
  const choice = fleeceFor(options, { features, plan, target });
  return { ...choice, features, disks: choice.fleece ? await placeScratch(run, plan) : new Map() };
}

/** The one choice, of a run and of `doctor`. */
export function fleeceFor(
  { fleece, verify, speedLimit }: Pick<BackupOptions, 'fleece' | 'verify' | 'speedLimit'>,
  seen: {
    readonly features: QemuFeatures | null;
    readonly plan: BackupPlan;
    readonly target: TargetStorage;
  },
): FleeceChoice {
  const { features, plan, target } = seen;
  return chooseFleece({
    mode: fleece,
    verify: verify !== null,
    network: target.network,
    speedLimit,
    spaceIsShort: target.spaceIsShort,
    obstacle: fleecingObstacle(features, plan.disks),
    jobBreaksItself: features?.driveBackup.onCbwError ?? false,
  });
}

/** `--verify` reads the disks over NBD. */
function refuseIothreads({ session, options }: QmpRun): void {
  if (survivesReaders(session.client.greeting.qemuVersion.major)) return;
  const { iothread } = session.state;
  if (iothread === null) return;
  const what = options.output === null ? '--verify' : '--output';
  throw new QmpBackupError('unsafe', `${what}: this VM ${DIES_OF_NBD} (${iothread})`, {
    hint: `Nothing was changed. Take the backup ${options.output === null ? 'without --verify' : 'into a target'}.`,
  });
}

/**
 * The schema takes 55 ms to read, so it is asked only where the answer can matter. `on-cbw-error` of the job itself came
 * with 10.1: an older QEMU is spared the question, a newer one's schema decides.
 */
async function featuresFor({ options, session }: QmpRun, target: TargetStorage): Promise<QemuFeatures | null> {
  const mayFleece =
    options.fleece === 'always' ||
    options.verify !== null ||
    (options.fleece === 'auto' && (target.network || target.spaceIsShort || options.speedLimit > 0));
  const mayBreakItself = session.client.greeting.qemuVersion.major >= 10;
  return mayFleece || mayBreakItself || options.compress ? readFeatures(session.client) : null;
}

/** Why this QEMU cannot fleece these disks, or null. */
function fleecingObstacle(features: QemuFeatures | null, disks: readonly PlannedDisk[]): string | null {
  if (!features?.snapshotAccess) return 'this QEMU has no snapshot-access nodes (7.0 and later have)';
  const { copyBeforeWrite: filter } = features;
  if (!filter?.onCbwError || !filter.cbwTimeout) {
    return 'the copy-before-write filter of this QEMU cannot break the snapshot instead of a guest write (7.1 and later can)';
  }
  const busy = disks.find(({ source }) => source.underJob);
  // QEMU 7.2 aborts when a job ends whose filter was there before ours was made above it.
  if (busy) return `another job is running on ${busy.disk}`;
  if (!disks.some(({ source }) => source.qdev !== null)) return 'no guest device has any of the disks open';
  return null;
}

/** Bytes below which a scratch image is of no use. */
const LEAST_SCRATCH = 4 * 1024 * 1024;

/** Each scratch image gets an equal share of what its file system can spare. */
async function placeScratch(run: QmpRun, plan: BackupPlan): Promise<ReadonlyMap<string, FleecedDisk>> {
  const { attempt } = run;
  const open = plan.disks.filter(({ source }) => source.qdev !== null);
  const places = await Promise.all(open.map(async (disk) => ({ disk, ...(await placeFor(run, disk)) })));
  return new Map(
    places.map(({ disk, folder, device, spare }, index) => {
      const sharers = places.filter((each) => each.device === device).length;
      const share = Math.floor(spare / sharers / IMAGE_CLUSTER) * IMAGE_CLUSTER;
      if (share < LEAST_SCRATCH) throw noSpace(folder, disk);
      const node = (part: Parameters<typeof fleeceNodeName>[1]): string => fleeceNodeName(attempt, part, index);
      const fleeced: FleecedDisk = {
        qdev: disk.source.qdev ?? '',
        scratch: scratchImage(join(folder, scratchFolderName(attempt)), index),
        limit: Math.min(share, wholeDisk(disk.source.virtualSize)),
        nodes: { scratch: node('scratch'), filter: node('filter'), snapshot: node('snapshot') },
      };
      return [disk.disk, fleeced] as const;
    }),
  );
}

interface Place {
  readonly folder: string;
  /** Number of the file system. */
  readonly device: number;
  /** Bytes that scratch images may take of it in all. */
  readonly spare: number;
}

/** Beside the disk's image, where QEMU can write; for disks that are no files in a place for large temporary files. */
async function placeFor({ options, signal }: QmpRun, { source }: PlannedDisk): Promise<Place> {
  const { fleeceDir, reserve } = options;
  const isFile = isAbsolute(source.file) && (await stat(source.file).catch(() => undefined))?.isFile() === true;
  const folder = fleeceDir === null ? (isFile ? dirname(source.file) : '/var/tmp') : resolve(fleeceDir);
  const { free, total } = await freeSpace(folder, { timeoutMs: ANSWER_MS, signal });
  const { dev } = await statFolder(folder);
  return { folder, device: dev, spare: free - (reserve ?? defaultReserve({ total })) };
}

async function statFolder(folder: string): Promise<{ readonly dev: number }> {
  const found = await stat(folder).catch((error: unknown) => error);
  if (found instanceof Stats && found.isDirectory()) return found;
  const why = found instanceof Stats ? 'is no folder' : `cannot be used: ${messageOf(found)}`;
  throw new QmpBackupError('unsafe', `the folder for the scratch images of fleecing, ${folder}, ${why}`, {
    hint: 'Nothing was changed. Name a folder that is there with --fleece-dir.',
  });
}

/** Bytes of a scratch image that holds the whole disk, with room for its own tables. */
function wholeDisk(virtualSize: number): number {
  return (Math.ceil(virtualSize / IMAGE_CLUSTER) + Math.ceil(virtualSize / 512 / IMAGE_CLUSTER) + 64) * IMAGE_CLUSTER;
}

function noSpace(folder: string, { disk }: PlannedDisk): QmpBackupError {
  return new QmpBackupError('unsafe', `${disk}: ${folder} has no space for the scratch image of fleecing`, {
    hint: 'Nothing was changed. Name another folder with --fleece-dir, or go without by --fleece never.',
  });
}
