import { QmpBackupError } from '../errors.js';
import type { OptionRule } from './option-rules.js';

/** A span of time in days, also as text: `30d`, `12h`, `2w`. */
export function timeSpan(flag: string): OptionRule<number | string, number | null> {
  return {
    flag,
    fallback: null,
    read: (given) => {
      const days = typeof given === 'number' ? (isSpan(given) ? given : undefined) : daysIn(given);
      if (days !== undefined) return days;
      throw new QmpBackupError('usage', 'give a time such as 30d, 12h or 2w.');
    },
  };
}

const DAYS: Readonly<Record<string, number>> = { h: 1 / 24, d: 1, w: 7 };

/** `30d`, `12h` or `2w` in days; undefined where it is no such text. */
export function daysIn(text: unknown): number | undefined {
  const [, count, unit] = /^(\d{1,6}(?:\.\d+)?)([hdw])$/.exec(String(text)) ?? [];
  const days = count !== undefined && unit !== undefined ? Number(count) * (DAYS[unit] ?? NaN) : NaN;
  return isSpan(days) ? days : undefined;
}

/** More is before there were computers. */
const MOST_DAYS = 36_500;

function isSpan(days: number): boolean {
  return days > 0 && days < MOST_DAYS;
}

const UNIT_MS: Readonly<Record<string, number>> = { s: 1_000, m: 60_000, h: 3_600_000 };

/** Milliseconds, of text such as `90s`, `10m` or `2h`. */
export function duration(flag: string, fallback: number): OptionRule<string, number> {
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
