import { counted } from './counted.js';
import { parseISO } from 'date-fns/parseISO';
import { QmpBackupError } from '../errors.js';
import type { Catalog } from './catalog.js';
import { latestFull, pointsOfChain } from './chain.js';
import type { OptionRule } from './option-rules.js';
import type { PointDisk } from './point.js';
import { daysIn } from './time-span.js';

/** `--auto-full-after`: when a chain is long enough, so that a backup at level `auto` begins another. */
export type ChainLimit =
  /** Of its oldest point. */
  | { readonly kind: 'age'; readonly days: number }
  | { readonly kind: 'points'; readonly points: number }
  /** Bytes on disk of what builds on other files, against those of the newest FULL of each disk. */
  | { readonly kind: 'increments'; readonly percent: number };

/** `30d`, `100`, `150%`; each of those that are given is a limit. */
export function limitsOfChain(
  flag: string,
): OptionRule<readonly (string | number)[] | string | number, readonly string[]> {
  return {
    flag,
    fallback: [],
    read: (given, previous = []) => {
      const list: readonly unknown[] = Array.isArray(given) ? given : [given];
      const texts = list.map((each) => (typeof each === 'number' ? `${each}` : each));
      if (texts.every(isLimit)) return [...previous, ...texts];
      throw new QmpBackupError(
        'usage',
        'give an age such as 30d, 12h or 2w, a number of points such as 100, or a share of the FULL such as 150%.',
      );
    },
  };
}

/** What `limitsOfChain` has read. */
export function chainLimitsIn(texts: readonly string[]): readonly ChainLimit[] {
  return texts.flatMap((text) => limitIn(text) ?? []);
}

function isLimit(text: unknown): text is string {
  return typeof text === 'string' && limitIn(text) !== undefined;
}

function limitIn(text: string): ChainLimit | undefined {
  const [, digits, percent] = /^([1-9]\d{0,8})(%?)$/.exec(text) ?? [];
  if (digits !== undefined) {
    return percent === '%'
      ? { kind: 'increments', percent: Number(digits) }
      : { kind: 'points', points: Number(digits) };
  }
  const days = daysIn(text);
  return days === undefined ? undefined : { kind: 'age', days };
}

/** Why a chain is long enough, in words; undefined where it is not. `now` is milliseconds. */
export function whyLongEnough(
  catalog: Catalog,
  chain: string,
  limits: readonly ChainLimit[],
  now: number,
): string | undefined {
  for (const limit of limits) {
    const why = whyReached(catalog, chain, limit, now);
    if (why !== undefined) return why;
  }
  return undefined;
}

function whyReached(catalog: Catalog, chain: string, limit: ChainLimit, now: number): string | undefined {
  const points = pointsOfChain(catalog, chain);
  switch (limit.kind) {
    case 'age': {
      // Of a clock that went back, or a date that nobody can read, it is no age at all.
      const age = now - parseISO(points[0]?.createdAt ?? '').getTime();
      return age >= limit.days * DAY_MS ? `the chain is ${inWords(age)} old` : undefined;
    }
    case 'points':
      return points.length >= limit.points ? `the chain has ${counted(points.length, 'point')}` : undefined;
    case 'increments': {
      const files = points.flatMap(({ disks }) => disks).filter(({ state }) => state !== 'merged');
      const disks = new Set(files.map(({ disk }) => disk));
      const full = allocatedBy([...disks].flatMap((disk) => latestFull(catalog, disk, chain) ?? []));
      const percent = (allocatedBy(files.filter(({ parent }) => parent !== null)) / full) * 100;
      if (full === 0 || percent < limit.percent) return undefined;
      return `the increments take ${Math.floor(percent)} % of the FULL`;
    }
  }
}

function allocatedBy(files: readonly PointDisk[]): number {
  return files.reduce((sum, { allocated }) => sum + allocated, 0);
}

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

function inWords(age: number): string {
  return age < 2 * DAY_MS ? counted(Math.floor(age / HOUR_MS), 'hour') : counted(Math.floor(age / DAY_MS), 'day');
}
