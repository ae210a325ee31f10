import { QmpBackupError } from '../errors.js';
import type { LeftOut } from './disk.js';

/** Which of a point's disks are meant. */
export interface DiskChoice {
  /** `--disk`: disk ids. Empty or undefined means all; so with `include`. */
  readonly disks?: readonly string[] | undefined;
  /** `--include` and `--exclude`: all that a disk answers to. */
  readonly include?: readonly string[] | undefined;
  readonly exclude?: readonly string[] | undefined;
}

export interface ChosenDisks<Disk> {
  readonly chosen: readonly Disk[];
  readonly leftOut: readonly LeftOut[];
}

export interface Choosable<Disk> {
  /** The point in words. */
  readonly point: string;
  readonly disks: readonly Disk[];
  /** Whether a name means a disk. */
  readonly answers: (disk: Disk, name: string) => boolean;
  /** Other disks that are known, and may be excluded as well. */
  readonly elsewhere?: readonly Disk[];
}

/** @throws QmpBackupError `usage` for a name that fits no disk, or two; `unsafe` where no disk is left */
export function chooseRestored<Disk extends { readonly disk: string }>(
  from: Choosable<Disk>,
  { disks = [], include = [], exclude = [] }: DiskChoice,
): ChosenDisks<Disk> {
  const { point, answers, elsewhere = [] } = from;
  const byId: Choosable<Disk> = { ...from, answers: ({ disk }, name) => disk === name };
  const ids = new Set(disks.map((name) => meant(byId, '--disk', name)));
  const included = new Set(include.map((name) => meant(from, '--include', name)));
  const known = exclude.filter(
    (name) => from.disks.some((each) => answers(each, name)) || !elsewhere.some((each) => answers(each, name)),
  );
  const excluded = new Set(known.map((name) => meant(from, '--exclude', name)));
  const whyNot = (disk: string): string | undefined => {
    if (excluded.has(disk)) return 'excluded by --exclude';
    if (included.size > 0 && !included.has(disk)) return 'not named by --include';
    return ids.size > 0 && !ids.has(disk) ? 'not named by --disk' : undefined;
  };
  const leftOut = from.disks.flatMap(({ disk }): LeftOut[] => {
    const reason = whyNot(disk);
    return reason === undefined ? [] : [{ name: disk, reason, kind: 'request' }];
  });
  const chosen = from.disks.filter(({ disk }) => whyNot(disk) === undefined);
  if (chosen.length > 0) return { chosen, leftOut };
  throw new QmpBackupError('unsafe', `there is no disk of ${point} to restore`, {
    hint: leftOut.map(({ name, reason }) => `${name}: ${reason}`).join('; '),
  });
}

function meant<Disk extends { readonly disk: string }>(
  { point, disks, answers }: Choosable<Disk>,
  option: string,
  name: string,
): string {
  const [first, second] = disks.filter((each) => answers(each, name)).map(({ disk }) => disk);
  if (first === undefined) {
    throw new QmpBackupError('usage', `${option} ${name}: ${point} has no disk ${name}`, {
      hint: `It has: ${disks.map(({ disk }) => disk).join(', ')}`,
    });
  }
  if (second === undefined) return first;
  throw new QmpBackupError('usage', `${option} ${name} fits two disks of ${point}: ${first} and ${second}`, {
    hint: 'Name the one that is meant by its image file, or by its disk id: --disk takes nothing else.',
  });
}
