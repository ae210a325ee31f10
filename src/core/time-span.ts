import { QmpBackupError } from '../errors.js';
import { type OptionRule, seconds } from './option-rules.js';

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

/** Milliseconds, of what `seconds` takes: `90s`, `10m`, `2h`, or a plain number of seconds; it may be 0. */
export function duration(flag: string, fallback: number): OptionRule<number | string, number> {
  const { read } = seconds(flag, fallback);
  const isNone = (given: number | string): boolean => /^0[smh]?$/.test(String(given));
  return { flag, fallback, read: (given) => (isNone(given) ? 0 : read(given) * 1_000) };
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
