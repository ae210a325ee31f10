import { join } from 'node:path';
import { difference, type DiskBytes, readDisk } from './disk-bytes.js';
import { type CatalogEntry, type CatalogPoint, neededBitmaps, readCatalogOf } from './leftovers.js';
import type { TortureDisk, TortureVm } from './torture-vm.js';

/** A target as its catalog tells it, and what every point in it must hold. */
export interface TargetState {
  readonly dir: string;
  /** By id of the point: when it was sealed, and what the disks held at its instant. */
  readonly points: Map<string, { readonly sealedAt: number; readonly bytes: ReadonlyMap<string, DiskBytes> }>;
  used: boolean;
  /** As last read. */
  catalog: readonly CatalogPoint[];
  /** Ids. */
  readonly pinned: Set<string>;
  /** Names of bitmaps that a run had reason to remove. */
  readonly retired: Set<string>;
}

export function newTarget(dir: string): TargetState {
  return { dir, points: new Map(), used: false, catalog: [], pinned: new Set(), retired: new Set() };
}

/** Reads the catalog after a run; throws if a point is gone, but for those of `mayGo`. Gives the ids of those that are new. */
export async function readPoints(target: TargetState, mayGo?: ReadonlySet<string>): Promise<readonly string[]> {
  target.catalog = (await readCatalogOf(target.dir))?.points ?? [];
  const ids = new Set(target.catalog.map(({ id }) => id));
  for (const id of target.points.keys()) {
    if (ids.has(id)) continue;
    if (!mayGo?.has(id)) throw new Error(`point ${id} is gone from ${target.dir}`);
    target.points.delete(id);
  }
  return [...ids].filter((id) => !target.points.has(id));
}

/** Notes which bitmaps a backup may have removed, that met the points of `before`. */
export function noteRetired(target: TargetState, before: readonly CatalogPoint[], torture: TortureVm): void {
  const needed = (points: readonly CatalogPoint[]): ReadonlySet<string> =>
    new Set(torture.disks.flatMap((disk) => neededBitmaps(points, (entry) => isOf(entry, torture, disk))));
  const [then, now] = [needed(before), needed(target.catalog)];
  for (const { bitmap } of before.flatMap(({ disks }) => disks)) {
    if (bitmap && !(then.has(bitmap.name) && now.has(bitmap.name))) target.retired.add(bitmap.name);
  }
}

/**
 * Whether an increment of the disk is safe: nothing was lost since its newest file (or FULL) of the newest chain. Undefined where
 * nobody can tell: a FULL into which older points were merged has the bitmap of its point, which may be gone.
 */
export function canBuildOn(
  target: TargetState,
  torture: TortureVm,
  disk: TortureDisk,
  level: 'inc' | 'diff',
): boolean | undefined {
  const chain = target.catalog.findLast((point) => point.chain !== null)?.chain;
  const [newest] = target.catalog
    .filter((point) => point.chain === chain && chain !== undefined)
    .flatMap(({ id, disks }) => disks.map((entry) => ({ id, entry })))
    .filter(({ entry }) => isOf(entry, torture, disk) && (level === 'inc' || entry.level === 'full'))
    .slice(-1);
  if (!newest || target.points.get(newest.id)!.sealedAt <= disk.lostAt) return false;
  return newest.entry.bitmap && target.retired.has(newest.entry.bitmap.name) ? undefined : true;
}

function isOf({ source }: CatalogEntry, torture: TortureVm, disk: TortureDisk): boolean {
  return torture.diskOfDevice(source.qdev) === disk;
}

/** Compares every point, opened as the chain that it is, with what the disks held. */
export async function checkPoints(target: TargetState, torture: TortureVm, scratch: string): Promise<number> {
  let compared = 0;
  for (const { id, disks } of target.catalog) {
    for (const { disk, file, source } of disks) {
      const found = await readDisk(join(target.dir, disk, file), 'qcow2', scratch);
      const expected = target.points.get(id)!.bytes.get(torture.diskOfDevice(source.qdev).id)!;
      const wrong = difference(found, expected);
      if (wrong !== undefined) throw new Error(`${target.dir}/${disk}/${file} is not what the disk held: ${wrong}`);
      compared += 1;
    }
  }
  return compared;
}
