import { QmpBackupError } from '../errors.js';
import type { Catalog } from './catalog.js';
import { backingChainOf, currentChain, knownDisks } from './chain.js';
import { answersTo } from './choose-disks.js';
import { chooseRestored, type DiskChoice } from './choose-restored.js';
import type { LeftOut } from './disk.js';
import { listNames } from './listed-names.js';
import type { Point, PointDisk } from './point.js';

/** Which point is restored, which disks of it, and which files that takes; and how people name points and files. */
export interface RestoreRequest extends DiskChoice {
  /** `N` of the newest chain, `CHAIN:N`, or a point's id; undefined is the newest that can be restored. */
  readonly point?: string | undefined;
  /** The point that holds this file: `NAME` or `DISK/NAME`, with or without `.qcow2`. */
  readonly until?: string | undefined;
}

export interface RestorePlan {
  readonly point: Point;
  readonly disks: readonly RestoreDisk[];
  /** Disks that the VM had at the time and that this point was told to leave out. */
  readonly absent: readonly string[];
  /** Disks of the point that are not restored because of what was asked for. */
  readonly leftOut: readonly LeftOut[];
}

export interface RestoreDisk {
  readonly entry: PointDisk;
  /** The files needed, FULL first, the point's own last. */
  readonly line: readonly PointDisk[];
}

/**
 * @throws QmpBackupError `usage` when there is no such point, file or disk, with what there is; `unsafe` when the point
 * cannot be restored: merged, being merged, or with a gap.
 */
export function planRestore(catalog: Catalog, request: RestoreRequest): RestorePlan {
  const point = chosenPoint(catalog, request);
  const known = [...knownDisks(catalog).values()];
  const answers = ({ disk, source }: PointDisk, name: string): boolean => answersTo({ id: disk, source }, name);
  const { chosen, leftOut } = chooseRestored(
    { point: nameOf(point, catalog), disks: point.disks, answers, elsewhere: known },
    request,
  );
  const all = [...(request.disks ?? []), ...(request.include ?? [])].length === 0;
  const excluded = known.filter((entry) => request.exclude?.some((name) => answers(entry, name)));
  return {
    point,
    disks: chosen.map((entry) => restorable(catalog, point, entry)),
    absent: all ? absentDisks(catalog, point).filter((id) => !excluded.some(({ disk }) => disk === id)) : [],
    leftOut,
  };
}

/** Why `entry` cannot be restored, or undefined when it can. */
export function whyNotRestorable(catalog: Catalog, entry: PointDisk): string | undefined {
  if (entry.state === 'merged') return `${entry.disk} was merged into a later point`;
  if (entry.state === 'merging') return `${entry.disk} is being merged into a later point`;
  const line = backingChainOf(catalog, entry);
  if ('missing' in line) return `${entry.disk}: ${line.missing} is missing`;
  const merging = line.files.find(({ state }) => state === 'merging');
  return merging ? `${entry.disk}: a merge into ${line.files[0]?.file} was interrupted` : undefined;
}

/** `point 3`, with its chain where that is not the newest. */
export function nameOf(point: Point, catalog: Catalog): string {
  if (point.chain === null) return `copy ${point.id}`;
  return point.chain === currentChain(catalog) ? `point ${point.number}` : `point ${point.chain}:${point.number}`;
}

function chosenPoint(catalog: Catalog, { point, until }: RestoreRequest): Point {
  if (point !== undefined && until !== undefined) {
    throw new QmpBackupError('usage', 'give a point or a file, not both');
  }
  if (until !== undefined) return pointWithFile(catalog, until);
  if (point !== undefined) return pointNamed(catalog, point);
  const newest = catalog.points.findLast((each) => isWhole(catalog, each));
  if (newest) return newest;
  throw new QmpBackupError('unsafe', 'there is no point that can be restored as a whole', {
    hint: 'See: qmpbackup list --target DIR. Single disks can be restored with --point and --disk.',
  });
}

function isWhole(catalog: Catalog, point: Point): boolean {
  return point.disks.every((entry) => whyNotRestorable(catalog, entry) === undefined);
}

function pointNamed(catalog: Catalog, name: string): Point {
  const numbered = /^(?:(.+):)?(\d+)$/.exec(name);
  const chain = numbered?.[1] ?? currentChain(catalog);
  const number = Number(numbered?.[2] ?? Number.NaN);
  // A copy is outside every chain and has only its id.
  const found =
    catalog.points.find((each) => chain !== undefined && each.chain === chain && each.number === number) ??
    catalog.points.find(({ id }) => id === name);
  if (found) return found;
  throw new QmpBackupError('usage', `there is no point ${name}`, { hint: `There are: ${allNames(catalog)}` });
}

function pointWithFile(catalog: Catalog, name: string): Point {
  const names = new Set([name, `${name}.qcow2`]);
  const found = catalog.points.filter(({ disks }) =>
    disks.some(({ disk, file, state }) => state !== 'merged' && (names.has(file) || names.has(`${disk}/${file}`))),
  );
  const [first] = found;
  if (first && found.length === 1) return first;
  if (first) {
    throw new QmpBackupError('usage', `${name} is in ${found.map((each) => nameOf(each, catalog)).join(' and in ')}`, {
      hint: 'Name the disk too: --until DISK/FILE, or the point: --point N',
    });
  }
  const files = catalog.points.flatMap(({ disks }) => disks).filter(({ state }) => state !== 'merged');
  throw new QmpBackupError('usage', `no point holds a file ${name}`, {
    hint: `There are: ${listNames(files.map(({ disk, file }) => `${disk}/${file}`))}`,
  });
}

function restorable(catalog: Catalog, point: Point, entry: PointDisk): RestoreDisk {
  const why = whyNotRestorable(catalog, entry);
  const line = backingChainOf(catalog, entry);
  if (why === undefined && 'files' in line) return { entry, line: line.files };
  const others = catalog.points.filter((each) => isWhole(catalog, each)).map((each) => nameOf(each, catalog));
  throw new QmpBackupError('unsafe', `${nameOf(point, catalog)} cannot be restored: ${why}`, {
    hint:
      others.length > 0
        ? `Restorable are: ${listNames(others)}. An interrupted merge is finished by: qmpbackup rebase --dir TARGET/DISK`
        : 'No point can be restored as a whole. An interrupted merge is finished by: qmpbackup rebase --dir TARGET/DISK',
  });
}

/** Disks with an older file that were neither in this point nor gone by then. */
function absentDisks(catalog: Catalog, point: Point): readonly string[] {
  const until = catalog.points.slice(0, catalog.points.indexOf(point) + 1);
  const present = new Set([...point.disks.map(({ disk }) => disk), ...goneDisks(until)]);
  return [...knownDisks({ ...catalog, points: until }).keys()].filter((disk) => !present.has(disk));
}

/** Disks whose removal was noted and that did not come back. */
function goneDisks(points: readonly Point[]): ReadonlySet<string> {
  const gone = new Set<string>();
  for (const point of points) {
    for (const { disk } of point.disks) gone.delete(disk);
    for (const disk of point.removed) gone.add(disk);
  }
  return gone;
}

function allNames(catalog: Catalog): string {
  return listNames(catalog.points.map((each) => nameOf(each, catalog)));
}
