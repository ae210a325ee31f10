import type { AskedTime } from '../core/asked-time.js';
import { chooseRestored, type DiskChoice } from '../core/choose-restored.js';
import type { LeftOut } from '../core/disk.js';
import { listNames } from '../core/listed-names.js';
import { pointNamed } from '../core/point-name.js';
import { refuseTwo } from '../core/restore-plan.js';
import { type Warning, warning } from '../core/warning.js';
import { QmpBackupError } from '../errors.js';

/**
 * What is restored from folders of the Python tools, which have no catalog: one run of theirs gives its files the same
 * number in every disk's folder, and that number is what stands for a point.
 */
export interface LegacyDisk {
  /** Names the restored image. */
  readonly disk: string;
  readonly dir: string;
  readonly chains: readonly LegacyDiskChain[];
}

export interface LegacyDiskChain {
  readonly disk: string;
  /** FULL first. */
  readonly files: readonly { readonly name: string; readonly path: string; readonly number: number }[];
  readonly notes: readonly string[];
  /** Why the end of the chain is not the disk's last state, or null. */
  readonly refused: string | null;
}

export interface LegacyRestoreRequest extends DiskChoice {
  /** See `pointNamed`: 0 is the FULL of the newest chain; `CHAIN:N` with the number in the FULL's name. */
  readonly point?: string | undefined;
  /** The newest run that is not later: their numbers are seconds. */
  readonly at?: AskedTime | undefined;
  /** A file name, `NAME` or `DISK/NAME`. */
  readonly until?: string | undefined;
}

export interface LegacyRestorePlan {
  /** In words. */
  readonly point: string;
  /** Chains that end with the file to be restored. */
  readonly disks: readonly { readonly disk: string; readonly dir: string; readonly chain: LegacyDiskChain }[];
  readonly warnings: readonly Warning[];
  readonly leftOut: readonly LeftOut[];
}

/**
 * @throws QmpBackupError `usage` when there is no such point, file or disk, with what there is; `unsafe` when a chain
 * is not whole
 */
export function planLegacyRestore(found: readonly LegacyDisk[], request: LegacyRestoreRequest): LegacyRestorePlan {
  refuseDoubles(found.map(({ disk }) => disk));
  const { chosen, leftOut } = chooseRestored(
    { point: 'the backup', disks: found, answers: ({ disk }, name) => disk === name },
    request,
  );
  const limit = chosenNumber(found, request);
  const warnings: Warning[] = [];
  const disks = chosen.flatMap((each) => {
    const chain = chainUpTo(each, limit, request.until);
    if (!chain) {
      warnings.push(warning('point-lacks-disk', `${each.disk} has no backup as old as ${limit}, it is left out`));
      return [];
    }
    const last = chain.files.at(-1);
    if (last && limit !== undefined && last.number !== limit) {
      warnings.push(
        warning('older-state', `${each.disk} was not backed up at ${limit}: its state of ${last.number} is restored`),
      );
    }
    warnings.push(...chain.notes.map((note) => warning('file-ignored', `${each.disk}: ${note}`)));
    return [{ disk: each.disk, dir: each.dir, chain }];
  });
  if (disks.length === 0) throw new QmpBackupError('usage', `no disk was backed up at ${limit}`);
  return { point: limit === undefined ? 'the newest state' : `the state of ${limit}`, disks, warnings, leftOut };
}

function numberAt(found: readonly LegacyDisk[], { lastMs, words }: AskedTime): number {
  const numbers = found.flatMap(({ chains }) => chains.flatMap(({ files }) => files.map(({ number }) => number)));
  const inTime = numbers.filter((number) => number * 1000 <= lastMs);
  if (inTime.length > 0) return Math.max(...inTime);
  throw new QmpBackupError('usage', `there is no backup of ${words} or before`, {
    hint: `The oldest is of ${new Date(Math.min(...numbers) * 1000).toISOString()}`,
  });
}

/** The number up to which files are taken; undefined is the newest. */
function chosenNumber(found: readonly LegacyDisk[], { point, at, until }: LegacyRestoreRequest): number | undefined {
  refuseTwo({ point, at, until });
  if (at !== undefined) return numberAt(found, at);
  if (until !== undefined) {
    for (const { disk, chains } of found) {
      for (const { name, number } of chains.flatMap(({ files }) => files)) {
        if (namesOf(until, disk).includes(name)) return number;
      }
    }
    const all = found.flatMap(({ disk, chains }) =>
      chains.flatMap(({ files }) => files.map(({ name }) => `${disk}/${name}`)),
    );
    throw new QmpBackupError('usage', `there is no file ${until}`, { hint: `There are: ${listNames(all)}` });
  }
  return point === undefined ? undefined : numberOfPoint(found, point);
}

/** Each run is a point; a chain has its name from the number of the FULL that a run began with. */
function numberOfPoint(found: readonly LegacyDisk[], point: string): number {
  const chains = found.flatMap((each) => each.chains);
  const starts = distinct(chains.flatMap(({ files }) => files.slice(0, 1)));
  const runs = distinct(chains.flatMap(({ files }) => files));
  const points = starts.flatMap((start, index) => {
    const next = starts[index + 1] ?? Infinity;
    const ofChain = runs.filter((run) => run >= start && run < next);
    return ofChain.map((run, number) => {
      // They have no ids.
      return { id: '', chain: `${start}`, number, createdAt: new Date(run * 1000).toISOString(), run };
    });
  });
  return pointNamed(points, point).run;
}

/** The chain that holds the newest file up to `limit`, cut off after it. */
function chainUpTo(
  { disk, chains }: LegacyDisk,
  limit = Infinity,
  until: string | undefined,
): LegacyDiskChain | undefined {
  const chain = chains
    .filter(({ files }) => (files[0]?.number ?? Infinity) <= limit)
    .toSorted((a, b) => (a.files[0]?.number ?? 0) - (b.files[0]?.number ?? 0))
    .at(-1);
  if (!chain) return undefined;
  // A FULL and its first increment may have the same number, when both were made within one second.
  const named = chain.files.findIndex(({ name }) => until !== undefined && namesOf(until, disk).includes(name));
  const files = named < 0 ? chain.files.filter(({ number }) => number <= limit) : chain.files.slice(0, named + 1);
  const isEnd = files.length === chain.files.length;
  if (isEnd && chain.refused !== null && files.at(-1)?.number !== limit) {
    throw new QmpBackupError('unsafe', `${disk} cannot be restored: ${chain.refused}`, {
      hint: `Name the file whose state you want: --until NAME. There are: ${listNames(files.map(({ name }) => name))}`,
    });
  }
  return { ...chain, files };
}

/** The file names that `NAME` or `DISK/NAME` may mean in the folder of `disk`. */
function namesOf(until: string, disk: string): readonly string[] {
  const name = until.startsWith(`${disk}/`) ? until.slice(disk.length + 1) : until;
  return [name, `${name}.qcow2`];
}

function distinct(files: readonly { readonly number: number }[]): readonly number[] {
  return [...new Set(files.map(({ number }) => number))].toSorted((a, b) => a - b);
}

function refuseDoubles(ids: readonly string[]): void {
  const double = ids.find((id, index) => ids.indexOf(id) !== index);
  if (double === undefined) return;
  throw new QmpBackupError('unsafe', `two disks are called ${double}: their images would have the same name`, {
    hint: 'Restore each by itself: qmpbackup merge --dir DIR --until NAME --targetfile FILE',
  });
}
