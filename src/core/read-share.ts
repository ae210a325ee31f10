import { parseISO } from 'date-fns/parseISO';
import type { OptionRule } from './option-rules.js';
import { hasDigest } from './pieces.js';
import type { PointDisk } from './point.js';
import { QmpBackupError } from '../errors.js';
import { daysIn } from './time-span.js';
import { fileKey } from './verified.js';
import { xxh32 } from './xxh32.js';

/** Which files `verify` reads to their end. */
export type ReadShare =
  | { readonly kind: 'all' }
  /** Files whose name falls into this part of so many: each file is in one, and stays there as others come and go. */
  | { readonly kind: 'part'; readonly part: number; readonly of: number }
  /** Those that were not read for the longest, until they have so many percent of all bytes. */
  | { readonly kind: 'percent'; readonly percent: number }
  /** So much that each is read at least once in so many days, by runs that come every so many. */
  | { readonly kind: 'within'; readonly days: number; readonly everyDays: number };

/** `--read-data`, `--read-data=3/7`, `--read-data=10%`, `--read-data=30d`, `--read-data=30d/12h`. */
export function readShare(flag: string): OptionRule<boolean | string, ReadShare | null> {
  return {
    flag,
    fallback: null,
    read: (given) => {
      if (given === false) return null;
      const share = given === true ? { kind: 'all' as const } : shareOf(given);
      if (share) return share;
      throw new QmpBackupError('usage', `=${given} is no share of the files`, {
        hint: `Use ${flag} for all, ${flag}=3/7 for the third of seven parts, ${flag}=10% for what was not read for the longest, or ${flag}=30d for what is due where all is to be read in that time.`,
      });
    },
  };
}

function shareOf(text: unknown): ReadShare | undefined {
  if (typeof text !== 'string') return undefined;
  const [, part, of] = /^(\d{1,4})\/(\d{1,4})$/.exec(text) ?? [];
  if (part !== undefined && of !== undefined) {
    const share = { kind: 'part' as const, part: Number(part), of: Number(of) };
    return share.part >= 1 && share.part <= share.of ? share : undefined;
  }
  const [within, every = '1d'] = text.split('/');
  const [days, everyDays] = [daysIn(within), daysIn(every)];
  if (days !== undefined && everyDays !== undefined) return { kind: 'within', days, everyDays };
  const percent = Number(/^(\d{1,3}(?:\.\d+)?)%$/.exec(text)?.[1]);
  return percent > 0 && percent <= 100 ? { kind: 'percent', percent } : undefined;
}

export interface ReadRequest {
  /** Null is none. */
  readonly share: ReadShare | null;
  /** ISO 8601: what was read at this time or later is left out; null is nothing. */
  readonly notSince: string | null;
  /** Milliseconds since 1970. */
  readonly nowMs: number;
}

/** The files of `all` to be read. `readAt` tells when each was, or null. What has no digest cannot be proved and is not read. */
export function filesToRead(
  all: readonly PointDisk[],
  { share, notSince, nowMs }: ReadRequest,
  readAt: (file: PointDisk) => string | null,
): readonly PointDisk[] {
  if (!share) return [];
  const provable = all.filter(hasDigest);
  const due = provable.filter((each) => notSince === null || (readAt(each) ?? '') < notSince);
  switch (share.kind) {
    case 'all':
      return due;
    case 'part':
      return due.filter((each) => xxh32(new TextEncoder().encode(fileKey(each))) % share.of === share.part - 1);
    case 'percent':
      return longestUnread(due, (bytesOf(provable) * share.percent) / 100, readAt);
    case 'within': {
      const ageOf = (each: PointDisk): number => (nowMs - provedMs(each, readAt)) / DAY_MS;
      return dueWithin(due, bytesOf(provable), share, ageOf);
    }
  }
}

const DAY_MS = 86_400_000;

/** What was written is as good as read. */
function provedMs(file: PointDisk, readAt: (file: PointDisk) => string | null): number {
  const at = readAt(file);
  return at === null ? file.mtimeMs : parseISO(at).getTime();
}

/**
 * Those that would be too old before the next run, and of the older half of the time so much that they do not all come due
 * at once. What is in its younger half is left for later: a file is read no more than twice in that time.
 */
function dueWithin(
  files: readonly PointDisk[],
  allBytes: number,
  { days, everyDays }: Extract<ReadShare, { kind: 'within' }>,
  ageOf: (file: PointDisk) => number,
): readonly PointDisk[] {
  const half = days / 2;
  const bytes = (allBytes * everyDays) / half;
  // A run may come late, by a half of what it should.
  const last = days - 1.5 * everyDays;
  const inTurn = files.filter((each) => ageOf(each) >= Math.min(half, last)).toSorted((a, b) => ageOf(b) - ageOf(a));
  let taken = 0;
  return inTurn.filter((each) => {
    if (ageOf(each) < last && taken >= bytes) return false;
    taken += each.size;
    return true;
  });
}

/** At least `bytes` where there are so many: such runs end with having read all. */
function longestUnread(
  files: readonly PointDisk[],
  bytes: number,
  readAt: (file: PointDisk) => string | null,
): readonly PointDisk[] {
  const inTurn = files.toSorted((a, b) => compare(readAt(a) ?? '', readAt(b) ?? ''));
  let taken = 0;
  return inTurn.filter(({ size }) => {
    if (taken >= bytes) return false;
    taken += size;
    return true;
  });
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

export function bytesOf(files: readonly PointDisk[]): number {
  return files.reduce((sum, { size }) => sum + size, 0);
}
