import { formatBytes } from '../core/bytes.js';
import { isComponent } from '../core/names.js';
import { type Warning, warning } from '../core/warning.js';
import { QmpBackupError } from '../errors.js';
import type { StreamMeta } from './stream-meta.js';

/**
 * What a folder of virtnbdbackup becomes: one point for each checkpoint over all disks, linked by what each stream says
 * of its parent. Names and times order nothing by themselves.
 */
export type StreamLevel = 'full' | 'inc' | 'diff' | 'copy';

export interface StreamName {
  readonly name: string;
  readonly disk: string;
  readonly level: StreamLevel;
  /** What follows the level: the checkpoint of an inc, the seconds of a diff; else null. */
  readonly ident: string | null;
}

export interface StreamFile extends StreamName {
  /** Length of the file in bytes. */
  readonly size: number;
  /** Null for a raw image, which is what that tool makes of a raw disk. */
  readonly meta: StreamMeta | null;
  /** When it was made: of the metadata, or for a raw image of the file. ISO 8601 without a zone. */
  readonly date: string;
}

/** What a log of a run says of it. */
export interface LoggedRun {
  readonly checkpoint: string;
  readonly version: string;
  /** It was told to keep zeros: `--no-sparse-detection`. */
  readonly keptZeros: boolean;
}

export interface ImportDisk {
  readonly disk: string;
  readonly level: StreamLevel;
  readonly source: StreamFile;
  readonly parent: ImportDisk | null;
  readonly virtualSize: number;
  /** Why areas that were zeroed may be missing from it, unless the stream has zeros after all; or null. */
  readonly suspect: string | null;
}

export interface ImportPoint {
  readonly level: StreamLevel;
  /** Null for a point that made none. */
  readonly checkpoint: string | null;
  /** Local time of the host that made it, ISO 8601 without a zone. */
  readonly date: string;
  readonly disks: readonly ImportDisk[];
}

export interface ImportPlan {
  /** Oldest first; each after those it builds on. */
  readonly points: readonly ImportPoint[];
  readonly warnings: readonly Warning[];
}

/** Undefined for a name that is not one of a stream. */
export function parseStreamName(name: string): StreamName | undefined {
  const match = /^([^.]+)\.(?:(full|copy)|(inc|diff)\.(.+))\.data$/.exec(name);
  const [, disk, whole, part, ident] = match ?? [];
  if (disk === undefined || !isComponent(disk)) return undefined;
  return { name, disk, level: (whole ?? part) as StreamLevel, ident: ident ?? null };
}

/** @throws QmpBackupError `unsafe`, with the file that is missing or wrong */
export function planImport(files: readonly StreamFile[], runs: readonly LoggedRun[]): ImportPlan {
  for (const file of files) refuseContradiction(file);
  const copies = copyPoints(files.filter(({ level }) => level === 'copy'));
  const chain = new ChainPlan(files, runs);
  const points = chain.points();
  for (const copy of copies) {
    const later = points.findIndex(({ date }) => date > copy.date);
    points.splice(later === -1 ? points.length : later, 0, copy);
  }
  if (points.length === 0)
    throw refused('there is no backup of virtnbdbackup in it', 'Give the folder that holds its *.data files.');
  return { points, warnings: chain.warnings };
}

/** Name and metadata are of one backup. */
function refuseContradiction({ name, disk, level, ident, meta, size }: StreamFile): void {
  if (!meta) {
    if (level !== 'copy') throw refused(`${name} does not begin as a stream does`);
    if (size === 0 || size % 512 !== 0) throw refused(`${name} is neither a stream nor a raw image`);
    return;
  }
  const incremental = level === 'inc' || level === 'diff';
  const kind = meta.incremental ? 'an increment' : 'a whole backup';
  if (meta.disk !== disk) throw refused(`${name} says that it is of ${meta.disk}`);
  if (meta.incremental !== incremental) throw refused(`${name} says that it is ${kind}`);
  if (level === 'inc' && ident !== meta.checkpoint) throw refused(`${name} says that it is of ${meta.checkpoint}`);
  if (incremental && meta.parent === null) throw refused(`${name} does not say what it builds on`);
}

/** Copies in the stream format are of one run; a raw image does not say of which run it is. */
function copyPoints(files: readonly StreamFile[]): ImportPoint[] {
  const groups = [files.filter(({ meta }) => meta), ...files.filter(({ meta }) => !meta).map((file) => [file])];
  return groups
    .filter(({ length }) => length > 0)
    .map((group) =>
      pointOf(
        'copy',
        null,
        group.map((file) => entryOf(file, null, null)),
      ),
    );
}

class ChainPlan {
  readonly warnings: Warning[] = [];
  readonly #runs: readonly LoggedRun[];
  readonly #fulls: readonly StreamFile[];
  /** Increments that made a checkpoint, and others: they have the changes since their parent too, and nothing builds on them. */
  readonly #steps: readonly StreamFile[];
  readonly #asides: readonly StreamFile[];

  constructor(files: readonly StreamFile[], runs: readonly LoggedRun[]) {
    this.#runs = runs;
    this.#fulls = files.filter(({ level }) => level === 'full');
    // Of a VM that is off no checkpoint can be made: such an increment names the one it builds on.
    const isStep = ({ level, meta }: StreamFile): boolean => level === 'inc' && meta?.checkpoint !== meta?.parent;
    this.#steps = files.filter(isStep);
    this.#asides = files.filter((file) => (file.level === 'inc' && !isStep(file)) || file.level === 'diff');
  }

  points(): ImportPoint[] {
    const increments = [...this.#steps, ...this.#asides];
    const [first] = this.#fulls;
    if (!first) {
      const [orphan] = increments;
      if (orphan) throw gap(`${orphan.disk}.full.data`, orphan);
      return [];
    }
    const other = this.#fulls.find(({ meta }) => meta?.checkpoint !== first.meta?.checkpoint);
    if (other) throw refused(`${first.name} and ${other.name} are of different runs`);
    const points: ImportPoint[] = [];
    const seen = new Set<StreamFile>();
    let point: ImportPoint | undefined = pointOf(
      'full',
      checkpointOf(first),
      this.#fulls.map((file) => entryOf(file, null, null)),
    );
    while (point) {
      points.push(point);
      const asides = this.#asidesOf(point);
      points.push(...asides);
      point = this.#stepAfter(point);
      for (const each of [point, ...asides]) for (const { source } of each?.disks ?? []) seen.add(source);
      if (points.length > increments.length + 1) throw refused(`the checkpoints of ${first.disk} go in a circle`);
    }
    const orphan = increments.find((file) => !seen.has(file));
    if (orphan?.level === 'inc' && orphan.meta?.checkpoint === orphan.meta?.parent) {
      // Such an increment of theirs has the name of the file that it builds on, and replaces it.
      throw refused(`${orphan.name} was taken while the VM was off, and has replaced the file that it builds on`);
    }
    if (orphan) throw gap(`${orphan.disk}.inc.${orphan.meta?.parent ?? ''}.data`, orphan);
    return points;
  }

  #stepAfter(point: ImportPoint): ImportPoint | undefined {
    const steps = this.#steps.filter(({ meta }) => meta?.parent === point.checkpoint);
    const [first] = steps;
    if (!first) return undefined;
    const other = steps.find(({ meta }) => meta?.checkpoint !== first.meta?.checkpoint);
    if (other) throw refused(`${first.name} and ${other.name} both build on ${point.checkpoint ?? ''}`);
    const next = pointOf(
      'inc',
      checkpointOf(first),
      steps.map((file) => this.#entryOn(point, file, 'inc')),
    );
    for (const { disk } of point.disks) {
      if (next.disks.some((each) => each.disk === disk)) continue;
      this.warnings.push(
        warning('point-lacks-disk', `${disk} has no file of ${next.checkpoint ?? ''}: that point is without it`),
      );
    }
    return next;
  }

  /**
   * A diff is named by the second at which its disk was begun. Diffs of all the disks in turn are of one run; where any is
   * missing that is not known, and each is a point of its own.
   */
  #asidesOf(point: ImportPoint): readonly ImportPoint[] {
    const files = this.#asides
      .filter(({ meta }) => meta?.parent === point.checkpoint)
      .toSorted((a, b) => (a.date < b.date ? -1 : 1));
    const groups: StreamFile[][] = [];
    for (const file of files) {
      const group = groups.at(-1);
      if (!group || group.some(({ disk }) => disk === file.disk)) groups.push([file]);
      else group.push(file);
    }
    const whole = (group: readonly StreamFile[]): boolean => group.length === point.disks.length;
    return groups
      .flatMap((group) => (whole(group) ? [group] : group.map((file) => [file])))
      .map((group) =>
        pointOf(
          'diff',
          null,
          group.map((file) => this.#entryOn(point, file, 'diff')),
        ),
      );
  }

  #entryOn(point: ImportPoint, file: StreamFile, level: 'inc' | 'diff'): ImportDisk {
    const parent = point.disks.find(({ disk }) => disk === file.disk);
    if (!parent) {
      const ident = point.level === 'full' ? 'full' : `inc.${point.checkpoint ?? ''}`;
      throw gap(`${file.disk}.${ident}.data`, file);
    }
    const [size, before] = [file.meta?.virtualSize ?? 0, parent.virtualSize];
    if (size < before) {
      throw refused(
        `${file.name} is of a disk of ${formatBytes(size)}, and ${parent.source.name} of ${formatBytes(before)}`,
      );
    }
    if (hoursBetween(file.date, parent.source.date) > CLOCK_HOURS) {
      throw refused(`${file.name} is older than ${parent.source.name}, so it cannot build on it`);
    }
    return entryOf(file, parent, whySuspect(file, this.#runs), level);
  }
}

/** Local clocks go back an hour in autumn. */
const CLOCK_HOURS = 1.1;

/** Hours by which `later` is after `earlier`, both local times; good enough across months. */
function hoursBetween(earlier: string, later: string): number {
  return hours(later) - hours(earlier);
}

function hours(date: string): number {
  const [year = 0, month = 0, day = 0, hour = 0, minute = 0] = date.split(/\D/).map(Number);
  return ((year * 12 + month) * 31 + day) * 24 + hour + minute / 60;
}

/** The day on which leaving out zeroed areas was proposed: no earlier increment can lack them. */
const FIRST_DAY = '2025-02-13';
const FIRST_VERSION = [2, 21] as const;

function whySuspect(file: StreamFile, runs: readonly LoggedRun[]): string | null {
  if (file.date.slice(0, 10) < FIRST_DAY) return null;
  const run = file.level === 'inc' ? runs.find(({ checkpoint }) => checkpoint === file.ident) : undefined;
  if (run?.keptZeros === true) return null;
  const [major = 0, minor = 0] = run?.version.split('.').map(Number) ?? [];
  if (run && (major < FIRST_VERSION[0] || (major === FIRST_VERSION[0] && minor < FIRST_VERSION[1]))) return null;
  const by = run ? `virtnbdbackup ${run.version}` : `a virtnbdbackup of ${file.date.slice(0, 10)}`;
  return `made by ${by}, which leaves zeroed and discarded areas out of increments: old data may be in their place`;
}

function entryOf(
  source: StreamFile,
  parent: ImportDisk | null,
  suspect: string | null,
  level = source.level,
): ImportDisk {
  const virtualSize = source.meta?.virtualSize ?? source.size;
  return { disk: source.disk, level, source, parent, virtualSize, suspect };
}

function pointOf(level: StreamLevel, checkpoint: string | null, disks: readonly ImportDisk[]): ImportPoint {
  const date = disks.map(({ source }) => source.date).toSorted()[0] ?? '';
  return { level, checkpoint, date, disks: disks.toSorted((a, b) => (a.disk < b.disk ? -1 : 1)) };
}

function checkpointOf({ meta }: StreamFile): string | null {
  return meta?.checkpoint ?? null;
}

function gap(missing: string, file: StreamFile): QmpBackupError {
  return refused(
    `${missing} is missing: ${file.name} builds on it`,
    'Put the file back; without it later changes have no base.',
  );
}

function refused(why: string, hint = 'Move out of the folder what does not belong to the backup.'): QmpBackupError {
  return new QmpBackupError('unsafe', why, { hint });
}
