import { join } from 'node:path';
import { difference, type DiskBytes, readDisk } from './disk-bytes.js';
import { type CatalogPoint, readCatalogOf } from './leftovers.js';
import type { TortureDisk, TortureVm } from './torture-vm.js';

/** A target as its catalog tells it, and what every point in it must hold. */
export interface TargetState {
  readonly dir: string;
  /** By id of the point: when it was sealed, and what the disks held at its instant. */
  readonly points: Map<string, { readonly sealedAt: number; readonly bytes: ReadonlyMap<string, DiskBytes> }>;
  used: boolean;
  /** As last read. */
  catalog: readonly CatalogPoint[];
}

export function newTarget(dir: string): TargetState {
  return { dir, points: new Map(), used: false, catalog: [] };
}

/** Reads the catalog after a run; throws if a point is gone. Gives the ids of those that are new. */
export async function readPoints(target: TargetState): Promise<readonly string[]> {
  target.catalog = (await readCatalogOf(target.dir))?.points ?? [];
  const ids = new Set(target.catalog.map(({ id }) => id));
  for (const id of target.points.keys()) if (!ids.has(id)) throw new Error(`point ${id} is gone from ${target.dir}`);
  return [...ids].filter((id) => !target.points.has(id));
}

/** Whether an increment of the disk is safe: nothing was lost since its newest file (or FULL) of the newest chain. */
export function canBuildOn(target: TargetState, torture: TortureVm, disk: TortureDisk, level: 'inc' | 'diff'): boolean {
  const chain = target.catalog.findLast((point) => point.chain !== null)?.chain;
  if (chain === undefined) return false;
  const newest = target.catalog.findLast(
    (point) =>
      point.chain === chain &&
      point.disks.some(
        ({ source, level: of }) => torture.diskOfDevice(source.qdev) === disk && (level === 'inc' || of === 'full'),
      ),
  );
  if (!newest) return false;
  return target.points.get(newest.id)!.sealedAt > disk.lostAt;
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
