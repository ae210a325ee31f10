import { QmpBackupError } from '../errors.js';
import type { Catalog } from './catalog.js';
import { type ChainLimit, whyLongEnough } from './chain-limits.js';
import {
  backingChainOf,
  currentChain,
  knownDisks,
  latestFile,
  latestFull,
  latestTracked,
  pointsOfChain,
} from './chain.js';
import { chooseDisks, type DiskRequest, refuseDecryption } from './choose-disks.js';
import type { LeftOut, SourceDisk, VmState } from './disk.js';
import type { FailedCopy } from './failed-copies.js';
import type { Level } from './level.js';
import type { KnownSource } from './match-disks.js';
import { jobId, nextNumber, pointFileName } from './names.js';
import { setAside } from './obstacles.js';
import { isTrackingOverlay } from './overlay-names.js';
import type { PointDisk } from './point.js';
import { type Remark, remarkOnFailed, remarksOn, whyUntrackable } from './remarks.js';

/**
 * The plan of one backup, decided from what was seen and changed nowhere: which disks, at which level and why, under
 * which names. `backup --dry-run` prints it; the run carries it out.
 */
export type RequestedLevel = Level | 'auto';

export interface PlanRequest extends DiskRequest {
  readonly level: RequestedLevel;
  readonly compress: boolean;
  /** At level `auto` a disk without a usable bitmap is copied whole, and not compared with its newest file. */
  readonly fullInstead: boolean;
  /** At level `auto` a chain that has reached any of them is followed by another. */
  readonly chainLimits: readonly ChainLimit[];
}

export interface PlannedDisk {
  readonly disk: string;
  readonly source: SourceDisk;
  readonly level: Level;
  readonly reason: string;
  readonly file: string;
  readonly parent: PointDisk | null;
  /** No bitmap tells what to copy: all of the disk is read, and what differs from the chain of `parent` is stored. */
  readonly compares: boolean;
  /** Bitmap that says what to copy, or null where all of the disk is read. */
  readonly copyBitmap: string | null;
  /** Bitmap that the transaction adds, or null when the disk cannot be tracked. */
  readonly newBitmap: { readonly name: string; readonly persistent: boolean } | null;
  readonly job: string;
}

export interface BackupPlan {
  readonly level: Level;
  readonly chain: string | null;
  readonly number: number;
  /** A FULL of all was asked for, or is due: a chain begins, whatever disks the point lacks. */
  readonly beginsChain: boolean;
  readonly disks: readonly PlannedDisk[];
  readonly leftOut: readonly Pick<LeftOut, 'name' | 'reason' | 'kind'>[];
  readonly removed: readonly string[];
  /** What there is to say of the disks, new or not. */
  readonly remarks: readonly Remark[];
  /** Those that were not said before. */
  readonly warnings: readonly string[];
}

export interface PlanInput {
  readonly request: PlanRequest;
  readonly vm: VmState;
  readonly known: readonly KnownSource[];
  readonly catalog: Catalog | undefined;
  /** The name of a disk's new bitmap; null where none can be added, because the VM is off. */
  readonly bitmapName: ((disk: string) => string) | null;
  readonly attempt: string;
  readonly nowSeconds: number;
  /** Names that new files may not have, by disk: of what its folder holds, and what the catalog names. */
  readonly files: ReadonlyMap<string, readonly string[]>;
  /** Why the line of files under a disk's would-be parent cannot be used; keyed by `<disk>/<file>`. */
  readonly brokenChains: ReadonlyMap<string, string>;
}

/** Throws `unsafe` (with the disk and the reason) when the level asked for would not be safe. */
export function planBackup(input: PlanInput): BackupPlan {
  const { request, catalog } = input;
  const { chosen, leftOut } = setAside(chooseDisks(input), request.skipFailed);
  refuseDecryption(request, chosen);

  const chain = currentChain(catalog);
  const due = whyFullIsDue(input, chain);
  const decisions = chosen.map((disk) => ({ ...disk, ...decide(input, chain, disk, due) }));
  refuseWhereUnsafe(request, decisions);

  const disks = decisions.map((decision): PlannedDisk => planned(input, decision));
  const missing = input.known.filter((disk) => !chosen.includes(disk)).map(({ id }) => id);
  const { attempt } = input;
  const beginsChain = request.level === 'full' || due !== undefined;
  const place = placeOf({ catalog, attempt, beginsChain }, disks, missing);
  const remarks = remarksOn({ catalog, chain: place.chain, disks, leftOut, off: input.bitmapName === null });
  return {
    ...place,
    beginsChain,
    disks,
    leftOut: leftOut.map(({ name, reason, kind }) => ({ name, reason, kind })),
    removed: removedDisks(input),
    remarks,
    warnings: remarks.filter(({ said }) => !said).map(({ text }) => text),
  };
}

/** What a plan is of, as far as its point's place hangs on it. */
interface Placed extends Pick<BackupPlan, 'beginsChain'> {
  readonly catalog: Catalog | undefined;
  readonly attempt: string;
}

/**
 * The plan without disks whose copies have failed. They keep the files and bitmaps that they had: where one could go on from
 * there in the newest chain, the point does not begin another.
 */
export function withoutFailed(
  plan: BackupPlan,
  failed: readonly FailedCopy[],
  { catalog, attempt }: Omit<Placed, 'beginsChain'>,
): BackupPlan {
  const lacked = failed.map(({ disk, why }) => ({
    ...{ name: disk, reason: `its copy failed: ${why}`, kind: 'failed' as const },
    instead: 'No change of it is lost: the next run copies it all.',
  }));
  const disks = plan.disks.filter(({ disk }) => !failed.some((each) => each.disk === disk));
  const names = failed.map(({ disk }) => disk);
  const { level, chain, number } = placeOf({ catalog, attempt, beginsChain: plan.beginsChain }, disks, names);
  const said = lacked.map(remarkOnFailed);
  return {
    ...plan,
    level,
    // A chain that is gone on with stays the one, whatever is left.
    ...(plan.chain === attempt ? { chain, number } : {}),
    disks,
    leftOut: [...plan.leftOut, ...lacked.map(({ name, reason, kind }) => ({ name, reason, kind }))],
    remarks: [...plan.remarks, ...said],
    warnings: [...plan.warnings, ...said.map(({ text }) => text)],
  };
}

/** `missing`: ids of disks that the point lacks. */
function placeOf(
  { catalog, attempt, beginsChain }: Placed,
  disks: readonly Pick<PlannedDisk, 'level'>[],
  missing: readonly string[],
): Pick<BackupPlan, 'level' | 'chain' | 'number'> {
  const level = pointLevel(disks.map((disk) => disk.level));
  if (level === 'copy') return { level, chain: null, number: 0 };
  const chain = currentChain(catalog);
  if (!catalog || chain === undefined) return { level, chain: attempt, number: 0 };
  // One of FULL files only goes on with a chain where a disk that it lacks could go on incrementally there.
  const couldGoOn = missing.some((id) => latestFile(catalog, id, chain));
  if (level === 'full' && (beginsChain || !couldGoOn)) return { level, chain: attempt, number: 0 };
  return { level, chain, number: nextPointNumber(catalog, chain) };
}

/** A point is as incremental as its most incremental disk. */
function pointLevel(levels: readonly Level[]): Level {
  return (['copy', 'inc', 'diff'] as const).find((level) => levels.includes(level)) ?? 'full';
}

/** The disks as they are once the plan's transaction has added its bitmaps. */
export function afterTransaction(sources: readonly SourceDisk[], plan: BackupPlan): readonly SourceDisk[] {
  return sources.map((source) => {
    const made = plan.disks.find((disk) => disk.source.address === source.address)?.newBitmap;
    if (!made) return source;
    const fresh = { granularity: 65536, count: 0, recording: true, busy: false, inconsistent: false };
    return { ...source, bitmaps: [...source.bitmaps, { ...fresh, ...made }] };
  });
}

function nextPointNumber(catalog: Catalog, chain: string): number {
  return pointsOfChain(catalog, chain).reduce((next, point) => Math.max(next, point.number + 1), 0);
}

// --- at which level ------------------------------------------------------------------------------------------------

interface Decision {
  readonly level: Level;
  readonly reason: string;
  readonly parent: PointDisk | null;
  readonly compares?: true;
  /** True when the level asked for was given up for safety. */
  readonly fellBack: boolean;
}

/** A FULL of a VM that is off has no bitmap, so that another would follow: where one is due, it waits for the VM to run. */
function whyFullIsDue({ request, catalog, bitmapName, nowSeconds }: PlanInput, chain?: string): string | undefined {
  if (request.level !== 'auto' || !catalog || chain === undefined || bitmapName === null) return undefined;
  return whyLongEnough(catalog, chain, request.chainLimits, nowSeconds * 1000);
}

function decide(input: PlanInput, chain: string | undefined, disk: KnownSource, due: string | undefined): Decision {
  const { level } = input.request;
  if (level === 'copy') return { level, reason: 'a copy was asked for', parent: null, fellBack: false };
  if (level === 'full') return { level, reason: 'a full backup was asked for', parent: null, fellBack: false };
  if (due !== undefined) return { level: 'full', reason: due, parent: null, fellBack: false };
  const wanted = level === 'diff' ? 'diff' : 'inc';
  const of = wanted === 'diff' ? latestFull : latestParent;
  const parent = input.catalog && chain !== undefined ? of(input.catalog, disk.id, chain) : undefined;
  const unsafe = parent ? whyNoParent(input, disk, parent) : whyNoFile(input, disk, chain);
  if (unsafe !== undefined || !parent) {
    return withoutBitmap(input, chain, disk, unsafe ?? 'it has no earlier backup');
  }
  return { level: wanted, reason: `changes since ${parent.file}`, parent, fellBack: false };
}

/**
 * No bitmap tells what has changed. Whatever the disk holds, its difference from a state that the target has whole is as good as
 * all of it: so at level `auto` it is compared with its newest file, which needs no bitmap to be a parent. `why` it has none.
 */
function withoutBitmap(input: PlanInput, chain: string | undefined, disk: KnownSource, why: string): Decision {
  const full = (reason: string): Decision => ({ level: 'full', reason, parent: null, fellBack: true });
  const { request, catalog } = input;
  const newest = catalog && chain !== undefined ? latestFile(catalog, disk.id, chain) : undefined;
  if (request.level !== 'auto' || request.fullInstead || !catalog || !newest) return full(why);
  const obstacle = whyNotCompared(input, catalog, disk, newest);
  if (obstacle !== undefined) return full(why === obstacle ? why : `${why}; ${obstacle}`);
  const reason = `${why}: compared with ${newest.file}`;
  return { level: 'inc', reason, parent: newest, compares: true, fellBack: true };
}

/** Why the difference from `parent` would not do for a point; undefined where it does. */
function whyNotCompared(
  { brokenChains }: PlanInput,
  catalog: Catalog,
  { source }: KnownSource,
  parent: PointDisk,
): string | undefined {
  if (source.virtualSize < parent.virtualSize) return shrunk(source, parent);
  const broken = brokenChains.get(`${parent.disk}/${parent.file}`);
  if (broken !== undefined) return notBuiltOn(broken);
  const chain = backingChainOf(catalog, parent);
  const files = 'missing' in chain ? [] : chain.files;
  const suspect = files.find((each) => each.suspect !== undefined);
  if (suspect) return `the content of ${suspect.file} may be wrong`;
  // Rot that nobody has noticed would go on into this point: only digests tell of it.
  const unproved = files.find(({ pieces }) => pieces === undefined);
  return unproved && `${unproved.file} has no digests of its pieces to prove by what the disk is compared with`;
}

/** The newest file that a bitmap of its own tracks; where none does, the newest, to say why it is no parent. */
function latestParent(catalog: Catalog, disk: string, chain: string): PointDisk | undefined {
  return latestTracked(catalog, disk, chain) ?? latestFile(catalog, disk, chain);
}

function whyNoFile({ catalog }: PlanInput, disk: KnownSource, chain: string | undefined): string {
  const version2 = whyUntrackable(disk.source);
  if (version2) return version2;
  if (!catalog || chain === undefined) return 'first backup into this target';
  return knownDisks(catalog).has(disk.id) ? 'it has no file in the newest chain' : 'first backup of this disk';
}

/** Why an increment of `disk` onto `parent` would not hold every change; undefined when it would. */
function whyNoParent(input: PlanInput, { source }: KnownSource, parent: PointDisk): string | undefined {
  const untrackable = whyUntrackable(source);
  if (untrackable) return untrackable;
  if (!parent.bitmap) return `${parent.file} was taken without a bitmap`;
  const { name } = parent.bitmap;
  const byOverlay = isTrackingOverlay(name);
  if (byOverlay !== (source.tracking === 'overlay')) {
    return `what changed since ${parent.file} is recorded by ${byOverlay ? 'an overlay' : 'a bitmap'} (${byOverlay ? 'with' : 'without'} --track overlay it goes on)`;
  }
  const bitmap = source.bitmaps.find((each) => each.name === name);
  if (!bitmap && byOverlay)
    return `the overlay above ${parent.file} is gone: it was merged, or the disk has another image`;
  if (!bitmap) return `the bitmap of ${parent.file} is gone${likelyCause(source, parent)}`;
  if (bitmap.inconsistent && bitmap.unsure) {
    return `the bitmap of ${parent.file} is missing or inconsistent: QEMU was killed, or the image was replaced or rolled back`;
  }
  if (bitmap.unreadable !== undefined && byOverlay) {
    return `what the overlay above ${parent.file} holds is not all that has changed since: ${bitmap.unreadable}`;
  }
  if (bitmap.unreadable !== undefined) return `the bitmap of ${parent.file} cannot be used: ${bitmap.unreadable}`;
  if (bitmap.inconsistent) {
    return `the bitmap of ${parent.file} is inconsistent: QEMU was killed or did not close the image cleanly`;
  }
  if (!bitmap.recording) return `the bitmap of ${parent.file} was disabled, so it missed changes`;
  if (bitmap.busy) return `the bitmap of ${parent.file} is in use by another operation`;
  if (source.virtualSize < parent.virtualSize) {
    return shrunk(source, parent);
  }
  const broken = input.brokenChains.get(`${parent.disk}/${parent.file}`);
  return broken === undefined ? undefined : notBuiltOn(broken);
}

function shrunk({ virtualSize }: SourceDisk, parent: PointDisk): string {
  return `the disk was shrunk from ${parent.virtualSize} to ${virtualSize} bytes`;
}

function notBuiltOn(broken: string): string {
  return `its earlier backup cannot be built on: ${broken}`;
}

function likelyCause(source: SourceDisk, parent: PointDisk): string {
  if (parent.bitmap && !parent.bitmap.persistent) {
    return ` (a ${source.format} image keeps no bitmap when QEMU ends)`;
  }
  return source.file === parent.source.file
    ? ' (QEMU was killed before it had stored it, it was removed, or the image was replaced or rolled back)'
    : ` (the image is now ${source.file}: an external snapshot, or another image)`;
}

function refuseWhereUnsafe(request: PlanRequest, decisions: readonly (KnownSource & Decision)[]): void {
  if (request.level !== 'inc' && request.level !== 'diff') return;
  const unsafe = decisions.filter(({ fellBack }) => fellBack);
  if (unsafe.length === 0) return;
  throw new QmpBackupError(
    'unsafe',
    `--level ${request.level} is not safe: ${unsafe.map(({ id, reason }) => `${id}: ${reason}`).join('; ')}`,
    {
      hint: 'Nothing was changed. --level auto reads such disks whole, and stores what differs from their newest file where it can.',
    },
  );
}

function planned(input: PlanInput, decision: KnownSource & Decision): PlannedDisk {
  const { id, source, level, reason, parent, compares = false } = decision;
  const { bitmapName } = input;
  const tracked = level !== 'copy' && whyUntrackable(source) === undefined;
  return {
    disk: id,
    source,
    level,
    reason,
    file: pointFileName(level, nextNumber(input.nowSeconds, input.files.get(id) ?? [])),
    parent,
    compares,
    copyBitmap: compares ? null : (parent?.bitmap?.name ?? null),
    newBitmap:
      tracked && bitmapName
        ? { name: bitmapName(id), persistent: source.tracking === 'overlay' || source.format === 'qcow2' }
        : null,
    job: jobId(input.attempt, id),
  };
}

/** Disks that the newest point had and that the VM no longer has. */
function removedDisks({ catalog, known }: PlanInput): readonly string[] {
  const newest = catalog?.points.findLast((point) => point.chain !== null);
  const present = new Set(known.map(({ id }) => id));
  return newest?.disks.map(({ disk }) => disk).filter((disk) => !present.has(disk)) ?? [];
}
