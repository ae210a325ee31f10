import { QmpBackupError } from '../errors.js';
import type { AskedTime } from './asked-time.js';
import type { Catalog } from './catalog.js';
import { type ChainFault, chainOf, knownDisks } from './chain.js';
import { answersTo } from './choose-disks.js';
import { chooseRestored, type DiskChoice } from './choose-restored.js';
import type { LeftOut } from './disk.js';
import { listNames } from './listed-names.js';
import type { PointFinding } from './point-findings.js';
import { inTime, nameIn, pointAt, pointNamed } from './point-name.js';
import { type Point, type PointDisk, recordedNames } from './point.js';
import { chainsIn } from './whole-chains.js';

/** Which point is restored, which disks of it, and which files that takes; and how people name points and files. */
export interface PointRequest extends DiskChoice {
  /** See `pointNamed`; undefined is the newest that can be restored. */
  readonly point?: string | undefined;
  /** The newest point that is not later. */
  readonly at?: AskedTime | undefined;
  /** The point that holds this file: `NAME` or `DISK/NAME`, with or without `.qcow2`. */
  readonly until?: string | undefined;
}

export interface RestorePlan {
  readonly point: Point;
  /** The point in words. */
  readonly name: string;
  readonly disks: readonly RestoreDisk[];
  /** Disks that the VM had at the time and that this point was told to leave out. */
  readonly absent: readonly string[];
  /** Disks of the point that are not restored because of what was asked for. */
  readonly leftOut: readonly LeftOut[];
  /** What the catalog alone says about its disks. */
  readonly findings: readonly PointFinding[];
}

export interface RestoreDisk {
  readonly entry: PointDisk;
  /** The files needed, FULL first, the point's own last; empty where the catalog does not tell them. */
  readonly chain: readonly PointDisk[];
  readonly findings: readonly PointFinding[];
}

/**
 * Whether a disk can be restored is in the findings: they are for who asks to refuse.
 *
 * @throws QmpBackupError `usage` when there is no such point, file or disk, with what there is; `unsafe` where none was
 * asked for and no point can be restored as a whole
 */
export function planRestore(catalog: Catalog, request: PointRequest): RestorePlan {
  const point = choosePoint(catalog, request);
  const name = nameOf(point, catalog);
  const known = [...knownDisks(catalog).values()];
  const answers = ({ disk, source }: PointDisk, called: string): boolean =>
    answersTo({ id: disk, source: recordedNames(source) }, called);
  const { chosen, leftOut } = chooseRestored({ point: name, disks: point.disks, answers, elsewhere: known }, request);
  const all = [...(request.disks ?? []), ...(request.include ?? [])].length === 0;
  const excluded = known.filter((entry) => request.exclude?.some((called) => answers(entry, called)));
  const disks = chosen.map((entry) => planDisk(catalog, point, entry));
  return {
    ...{ point, name, disks, leftOut },
    absent: all ? absentDisks(catalog, point).filter((id) => !excluded.some(({ disk }) => disk === id)) : [],
    findings: disks.flatMap(({ findings }) => findings),
  };
}

/** One disk of a point: the files that it takes, and what the catalog alone says against it. */
export function planDisk(catalog: Catalog, point: Point, entry: PointDisk): RestoreDisk {
  const { files, fault } = chainOf(catalog, entry);
  const suspect = files.flatMap(suspectFindings);
  if (!fault) return { entry, chain: files, findings: suspect };
  const name = nameOf(point, catalog);
  return {
    entry,
    chain: files,
    findings: [chainFinding(entry, fault, { name, todo: otherPoints(catalog) }), ...suspect],
  };
}

/** That the content of a file may be wrong although it is whole. */
export function suspectFindings({ disk, file, suspect: why }: PointDisk): readonly PointFinding[] {
  if (why === undefined) return [];
  const what = `${disk} is suspect: ${file} was ${why}`;
  return [{ level: 'warning', code: 'suspect', subject: disk, file, why, what, todo: null }];
}

/** That the state of `entry` cannot be had. `name` is that of its point, and `todo` as of `otherPoints`. */
export function chainFinding(
  { disk }: PointDisk,
  fault: ChainFault,
  { name, todo }: { readonly name: string; readonly todo: string },
): PointFinding {
  const { code, file } = fault;
  const why = chainFaultInWords(disk, fault);
  return { level: 'error', code, subject: disk, file, why, what: `${name} cannot be restored: ${why}`, todo };
}

function chainFaultInWords(disk: string, { code, why }: ChainFault): string {
  return code === 'merged' || code === 'merging' ? `${disk} ${why}` : `${disk}: ${why}`;
}

/** What else can be restored, by the catalog. */
export function otherPoints(catalog: Catalog): string {
  const restorable = catalog.points.filter(wholeIn(catalog));
  const has =
    restorable.length > 0
      ? `Restorable are: ${listNames(restorable.map((each) => nameOf(each, catalog)))}`
      : 'No point can be restored as a whole';
  return `${has}. An interrupted merge is finished by: qmpbackup rebase --dir TARGET/DISK`;
}

/** Whether a point can be restored as a whole, by the catalog. */
function wholeIn(catalog: Catalog): (point: Point) => boolean {
  const chainTo = chainsIn(catalog);
  return ({ disks }) => disks.every((entry) => chainTo(entry).fault === null);
}

/** `point 3`, with its chain where that is not the newest. */
export function nameOf(point: Point, { points }: Catalog): string {
  return nameIn(point, points);
}

function choosePoint(catalog: Catalog, { point, at, until }: PointRequest): Point {
  refuseTwo({ point, at, until });
  if (at !== undefined) return pointOf(catalog, at);
  if (until !== undefined) return pointWithFile(catalog, until);
  if (point !== undefined) return pointNamed(catalog.points, point);
  const newest = catalog.points.findLast(wholeIn(catalog));
  if (newest) return newest;
  throw new QmpBackupError('unsafe', 'there is no point that can be restored as a whole', {
    hint: 'See: qmpbackup list --target DIR. Single disks can be restored with --point and --disk.',
  });
}

/** @throws QmpBackupError `usage` where more than one of them is given */
export function refuseTwo({ point, at, until }: Omit<PointRequest, keyof DiskChoice>): void {
  if (point !== undefined && until !== undefined) {
    throw new QmpBackupError('usage', 'give a point or a file, not both');
  }
  if (at === undefined || (point === undefined && until === undefined)) return;
  throw new QmpBackupError('usage', `give a time or a ${point === undefined ? 'file' : 'point'}, not both`);
}

/** Not an older one where it cannot be restored: who asks for a time hears of that. */
function pointOf(catalog: Catalog, time: AskedTime): Point {
  const found = pointAt(catalog.points, time);
  if (found) return found;
  const oldest = inTime(catalog.points)[0]?.point;
  throw new QmpBackupError('usage', `there is no point of ${time.words} or before`, {
    hint: oldest
      ? `The oldest is ${nameOf(oldest, catalog)}, of ${oldest.createdAt}`
      : 'There is no point at all: see qmpbackup list --target DIR',
  });
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

/** Disks with an older file that were neither in this point nor gone by then. */
function absentDisks(catalog: Catalog, point: Point): readonly string[] {
  const until = catalog.points.slice(0, catalog.points.indexOf(point) + 1);
  const present = new Set([...point.disks.map(({ disk }) => disk), ...goneDisks(until)]);
  return [...knownDisks({ ...catalog, points: until }).keys()].filter((disk) => !present.has(disk));
}

/** Disks whose removal was noted and that did not come back. */
export function goneDisks(points: readonly Point[]): ReadonlySet<string> {
  const gone = new Set<string>();
  for (const point of points) {
    for (const { disk } of point.disks) gone.delete(disk);
    for (const disk of point.removed) gone.add(disk);
  }
  return gone;
}
