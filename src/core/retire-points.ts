import type { Catalog, RetiredFile } from './catalog.js';
import { neededBitmaps } from './chain.js';
import type { Hardware } from './hardware.js';
import { filesOf } from './journal-parts.js';
import { DEFINITION_FOLDER } from './names.js';
import type { Point } from './point.js';

/**
 * The catalog without some of its points, whose files it names as retired: they are removed once it is written. What later
 * points knew only from a dropped one is handed on to them.
 */
export function withoutPoints(catalog: Catalog, dropped: ReadonlySet<string>): Catalog {
  const [gone, left] = [catalog.points.filter(({ id }) => dropped.has(id)), handedOn(catalog.points, dropped)];
  const after = { ...catalog, points: [...left] };
  return {
    ...after,
    retired: [...new Set([...catalog.retired, ...bitmapsOf(gone, catalog, after)])].slice(-MOST_BITMAPS),
    retiredFiles: retiredFiles(catalog, gone, after),
  };
}

/**
 * Older ones went from the VM when their successors were sealed. One that QEMU refused to remove then is found by
 * `cleanup --stale`, as ours by its name.
 */
const MOST_BITMAPS = 100;

/** Those that the VM still has are last, since only so many are remembered. */
function bitmapsOf(gone: readonly Point[], before: Catalog, after: Catalog): readonly string[] {
  const names = gone.flatMap(({ disks }) => disks.flatMap(({ bitmap }) => bitmap?.name ?? []));
  const [had, has] = [neededBitmaps(before), neededBitmaps(after)];
  const free = names.filter((name) => !has.has(name));
  return [...free.filter((name) => !had.has(name)), ...free.filter((name) => had.has(name))];
}

function retiredFiles(before: Catalog, gone: readonly Point[], after: Catalog): RetiredFile[] {
  const recorded = filesOf(after);
  const files = gone.flatMap(({ disks, definition }): RetiredFile[] => [
    ...disks.map(({ disk, file }) => ({ folder: disk, file })),
    ...(definition?.files ?? []).map(({ file }) => ({ folder: DEFINITION_FOLDER, file })),
  ]);
  // Of two merged entries both may have the name of the file that lives on.
  const own = new Map(files.map((each) => [`${each.folder}/${each.file}`, each]));
  const added = [...own].flatMap(([key, each]) => (recorded.has(key) ? [] : [each]));
  return [...(before.retiredFiles ?? []), ...added];
}

/**
 * Of a chain the hardware is recorded where it changed, and of a disk that went that it is gone only in the point after: the
 * next point that is left takes both over.
 */
function handedOn(points: readonly Point[], dropped: ReadonlySet<string>): readonly Point[] {
  const hardware = new Map<string, Hardware>();
  const removed = new Set<string>();
  const left: Point[] = [];
  for (const point of points) {
    for (const { disk } of point.disks) removed.delete(disk);
    if (dropped.has(point.id)) {
      for (const disk of point.removed) removed.add(disk);
      if (point.chain !== null && point.machine.hardware) hardware.set(point.chain, point.machine.hardware);
      continue;
    }
    left.push(withInherited(point, hardware, removed));
    if (point.chain !== null) hardware.delete(point.chain);
    removed.clear();
  }
  return left;
}

function withInherited(point: Point, hardware: ReadonlyMap<string, Hardware>, gone: ReadonlySet<string>): Point {
  const known = point.chain === null ? undefined : hardware.get(point.chain);
  const removed = [...new Set([...gone, ...point.removed])];
  if (removed.length === point.removed.length && (known === undefined || point.machine.hardware)) return point;
  const machine = known && !point.machine.hardware ? { ...point.machine, hardware: known } : point.machine;
  return { ...point, machine, removed };
}
