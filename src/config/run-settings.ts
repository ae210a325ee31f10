import { type OptionRule, type OptionRules, wholeNumber } from '../core/option-rules.js';
import { QmpBackupError } from '../errors.js';

/** The section `run`: how many VMs at a time, and when. Its keys are options of the command `run`, too, where those have a flag. */
export const RUN_RULES = {
  /** So many VMs at a time. */
  parallel: countOr('--parallel', 1),
  /** So many at a time of those whose targets are on one file system. */
  'max-per-target': wholeNumber('max-per-target'),
  /** Begins after a random time of at most this. */
  jitter: duration('jitter', 0),
  /** What has not begun at this time of the day is not begun. */
  'not-after': timeOfDay('--not-after'),
  /** How often what may pass is tried again: a lock, a monitor or a target that does not answer. */
  retries: countFromZero('retries', 2),
  'retry-after': duration('retry-after', 60_000),
} as const satisfies OptionRules;

export interface RunSettings {
  readonly parallel: number;
  /** Null is no limit. */
  readonly maxPerTarget: number | null;
  readonly jitterMs: number;
  /** Minutes after midnight, in local time; null is whenever. */
  readonly notAfter: number | null;
  readonly retries: number;
  readonly retryAfterMs: number;
}

function countOr(flag: string, fallback: number): OptionRule<number | string, number> {
  const { read } = wholeNumber(flag);
  return { flag, fallback, read: (given) => read(given) ?? fallback };
}

function countFromZero(flag: string, fallback: number): OptionRule<number | string, number> {
  return {
    flag,
    fallback,
    read: (given) => {
      if (/^\d{1,4}$/.test(String(given))) return Number(given);
      throw new QmpBackupError('usage', 'give a whole number, 0 for not at all.');
    },
  };
}

const UNIT_MS: Readonly<Record<string, number>> = { s: 1_000, m: 60_000, h: 3_600_000 };

/** Milliseconds, of text such as `90s`, `10m` or `2h`. */
function duration(flag: string, fallback: number): OptionRule<string, number> {
  return {
    flag,
    fallback,
    read: (given) => {
      const [, count, unit] = /^(\d{1,5})([smh])$/.exec(given) ?? [];
      const ms = Number(count) * (UNIT_MS[unit ?? ''] ?? NaN);
      // A timer of Node's takes no more than 24 days.
      if (ms <= 24 * 3_600_000) return ms;
      throw new QmpBackupError('usage', 'give a time of at most a day, such as 90s, 10m or 2h.');
    },
  };
}

/** Minutes after midnight, of text such as `06:00`. */
export function timeOfDay(flag: string): OptionRule<string, number | null> {
  return {
    flag,
    fallback: null,
    read: (given) => {
      const [, hours, minutes] = /^([01]?\d|2[0-3]):([0-5]\d)$/.exec(given) ?? [];
      if (hours !== undefined && minutes !== undefined) return Number(hours) * 60 + Number(minutes);
      throw new QmpBackupError('usage', 'give a time of the day such as "06:00".');
    },
  };
}
