import { QmpBackupError } from '../errors.js';
import type { Catalog } from './catalog.js';
import { filesThere, parentFileIn } from './chain.js';
import { DEFINITION_FOLDER } from './names.js';
import { pointNamed } from './point-name.js';
import { linksIn } from './point-space.js';
import type { Point, PointDisk } from './point.js';
import { withoutPoints } from './retire-points.js';

/** Which points an export holds, and what the catalog says of them. */
export interface ExportChoice {
  /** This point, with those that it builds on. See `pointNamed`. */
  readonly point: string | null;
  /** All that were sealed after this one. */
  readonly since: string | null;
}

/** A file that some of an export builds on, and that is not in it. */
export interface FileBeneath {
  readonly disk: string;
  readonly file: string;
  /** Id of the point that holds it. */
  readonly point: string;
}

export interface ExportPart {
  /** With the points of the export alone. */
  readonly catalog: Catalog;
  /** Ids of all points that the target had, in the order in which they were sealed. */
  readonly order: readonly string[];
  readonly beneath: readonly FileBeneath[];
}

/** A file of an export, in the order in which they come. */
export interface ExportedFile {
  readonly folder: string;
  readonly file: string;
  /** Bytes. */
  readonly size: number;
  /** Of an image; null for a file of a definition. */
  readonly image: PointDisk | null;
  /** In hexadecimal, of a file of a definition. */
  readonly sha256: string | null;
}

/** @throws QmpBackupError `usage` for a point that there is not */
export function exportPartOf(catalog: Catalog, { point, since }: ExportChoice): ExportPart {
  const { points } = catalog;
  const order = points.map(({ id }) => id);
  const chosen =
    point === null
      ? pointsSince(points, since)
      : new Set(neededFor(points, pointNamed(points, point)).map(({ id }) => id));
  const others = new Set(order.filter((id) => !chosen.has(id)));
  // Who takes in what came after a point has that point, and knows what it hands on.
  const part =
    point === null ? { ...catalog, points: points.filter(({ id }) => chosen.has(id)) } : withoutPoints(catalog, others);
  return {
    catalog: { ...part, retired: catalog.retired, retiredFiles: undefined },
    order,
    beneath: beneath(catalog, chosen),
  };
}

function pointsSince(points: readonly Point[], since: string | null): ReadonlySet<string> {
  const after = since === null ? 0 : points.indexOf(pointNamed(points, since)) + 1;
  return new Set(points.slice(after).map(({ id }) => id));
}

/** It and all whose files its own build on. */
function neededFor(points: readonly Point[], asked: Point): readonly Point[] {
  const links = linksIn(points);
  const needed = new Set([points.indexOf(asked)]);
  // A set is walked in the order in which it grows.
  for (const index of needed) for (const { parent } of links[index] ?? []) needed.add(parent);
  return points.filter((_, index) => needed.has(index));
}

function beneath(catalog: Catalog, chosen: ReadonlySet<string>): readonly FileBeneath[] {
  const parentOf = parentFileIn(catalog);
  const owners = ownersIn(catalog.points);
  const found = new Map<PointDisk, FileBeneath>();
  for (const { disks } of catalog.points.filter(({ id }) => chosen.has(id))) {
    for (const entry of disks) {
      const parent = entry.state === 'merged' ? undefined : parentOf(entry);
      const owner = parent && owners.get(parent);
      if (!parent || owner === undefined || chosen.has(owner)) continue;
      found.set(parent, { disk: parent.disk, file: parent.file, point: owner });
    }
  }
  return [...found.values()];
}

function ownersIn(points: readonly Point[]): ReadonlyMap<PointDisk, string> {
  return new Map(points.flatMap(({ id, disks }) => disks.map((entry) => [entry, id] as const)));
}

export function filesToExport(points: readonly Point[]): readonly ExportedFile[] {
  return points.flatMap(({ disks, definition }) => [
    ...(definition?.files ?? []).map(({ file, size, sha256 }) => ({
      folder: DEFINITION_FOLDER,
      file,
      size,
      image: null,
      sha256,
    })),
    ...disks
      .filter(({ state }) => state !== 'merged')
      .map((image) => ({ folder: image.disk, file: image.file, size: image.size, image, sha256: null })),
  ]);
}

/**
 * The points of an export that a target does not have yet, in their order. `held` is its catalog, undefined for a new one.
 *
 * @throws QmpBackupError `unsafe` where they do not go on from what the target has
 */
export function missingPoints(part: ExportPart, held: Catalog | undefined): readonly Point[] {
  const places = new Map(part.order.map((id, place) => [id, place]));
  const newest = held?.points.at(-1);
  const known = newest ? places.get(newest.id) : -1;
  if (known === undefined) throw notACopy(held, part);
  const missing = part.catalog.points.filter(({ id }) => (places.get(id) ?? -1) > known);
  refuseGaps(part, missing, held);
  refuseTaken(missing, held);
  return missing;
}

/** Whatever a new file builds on is there, and is that file of that point: its content is then what the new one was made for. */
function refuseGaps(
  { catalog, beneath: outside }: ExportPart,
  missing: readonly Point[],
  held: Catalog | undefined,
): void {
  const owners = new Map(outside.map(({ disk, file, point }) => [`${disk}/${file}`, point]));
  for (const { id, disks } of catalog.points) {
    for (const { disk, file, state } of disks) if (state !== 'merged') owners.set(`${disk}/${file}`, id);
  }
  const there = new Map<string, string>();
  for (const { id, disks } of [...(held?.points ?? []), ...missing]) {
    for (const { disk, file, state, parent } of disks) {
      if (state === 'merged') continue;
      const beneathIt = parent === null ? null : `${disk}/${parent}`;
      if (beneathIt !== null && !(held && filesThere(held).has(`${disk}/${file}`))) {
        const owner = there.get(beneathIt);
        if (owner === undefined || owner !== owners.get(beneathIt)) throw gap(`${disk}/${file}`, beneathIt, held);
      }
      there.set(`${disk}/${file}`, id);
    }
  }
}

function refuseTaken(missing: readonly Point[], held: Catalog | undefined): void {
  if (!held) return;
  const there = filesThere(held);
  const twice = filesToExport(missing).find(({ folder, file }) => there.has(`${folder}/${file}`));
  if (twice) throw other(`${twice.folder}/${twice.file} is a file of another point there`);
}

function notACopy(held: Catalog | undefined, { order }: ExportPart): QmpBackupError {
  if (held?.points.some(({ id }) => order.includes(id))) {
    return other(
      `its newest point, ${held.points.at(-1)?.id}, is not known where the export was made: both have gone their own ways since`,
    );
  }
  return other('it has no point in common with where the export was made');
}

function gap(file: string, beneathIt: string, held: Catalog | undefined): QmpBackupError {
  const newest = held?.points.at(-1);
  return new QmpBackupError(
    'unsafe',
    `points are missing: ${file} builds on ${beneathIt}, which is neither in the target nor in the export`,
    {
      hint: newest
        ? `Export what came after the newest point that is there: --since ${newest.id}`
        : 'Export a point with all that it builds on, --point P, or all points.',
    },
  );
}

function other(why: string): QmpBackupError {
  return new QmpBackupError('unsafe', `the target is no copy that the export goes on from: ${why}`, {
    hint: 'Import into a new folder.',
  });
}

/** What the target has once it has taken the points in. A new one has an id of its own: see decision 34. */
export function withPoints(
  held: Catalog | undefined,
  { catalog }: ExportPart,
  { points, targetId, tool }: { readonly points: readonly Point[]; readonly targetId: string; readonly tool: string },
): Catalog {
  const base = held ?? { ...catalog, targetId, tool, points: [] };
  const retired = [...new Set([...base.retired, ...catalog.retired])];
  return { ...base, retired, points: [...base.points, ...points] };
}
