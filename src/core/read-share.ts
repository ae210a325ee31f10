import type { OptionRule } from './option-rules.js';
import { hasDigest } from './pieces.js';
import type { PointDisk } from './point.js';
import { QmpBackupError } from '../errors.js';
import { fileKey } from './verified.js';
import { xxh32 } from './xxh32.js';

/** Which files `verify` reads to their end. */
export type ReadShare =
  | { readonly kind: 'all' }
  /** Files whose name falls into this part of so many: each file is in one, and stays there as others come and go. */
  | { readonly kind: 'part'; readonly part: number; readonly of: number }
  /** Those that were not read for the longest, until they have so many percent of all bytes. */
  | { readonly kind: 'percent'; readonly percent: number };

/** `--read-data`, `--read-data=3/7`, `--read-data=10%`. */
export function readShare(flag: string): OptionRule<boolean | string, ReadShare | null> {
  return {
    flag,
    fallback: null,
    read: (given) => {
      if (given === false) return null;
      const share = given === true ? { kind: 'all' as const } : shareOf(given);
      if (share) return share;
      throw new QmpBackupError('usage', `=${given} is no share of the files`, {
        hint: `Use ${flag} for all, ${flag}=3/7 for the third of seven parts, or ${flag}=10% for what was not read for the longest.`,
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
  const percent = Number(/^(\d{1,3}(?:\.\d+)?)%$/.exec(text)?.[1]);
  return percent > 0 && percent <= 100 ? { kind: 'percent', percent } : undefined;
}

export interface ReadRequest {
  /** Null is none. */
  readonly share: ReadShare | null;
  /** ISO 8601: what was read at this time or later is left out; null is nothing. */
  readonly notSince: string | null;
}

/** The files of `all` to be read. `readAt` tells when each was, or null. What has no digest cannot be proved and is not read. */
export function filesToRead(
  all: readonly PointDisk[],
  { share, notSince }: ReadRequest,
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
  }
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
