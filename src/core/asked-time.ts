import { isDate } from 'date-fns/isDate';
import { parseISO } from 'date-fns/parseISO';
import { QmpBackupError } from '../errors.js';
import type { OptionRule } from './option-rules.js';

/** A time that somebody named: `--at`. */
export interface AskedTime {
  /** Its last millisecond: `10:00:05` is over when that second is, as `list` shows it, and a day alone at midnight. */
  readonly lastMs: number;
  /** As it was given. */
  readonly words: string;
}

/** Local time unless it says otherwise: `2026-11-20 10:00`, with or without seconds, `2026-11-20T10:00:00Z`, `2026-11-20`. */
export function pointInTime(flag: string): OptionRule<Date | string | AskedTime, AskedTime | null> {
  return {
    flag,
    fallback: null,
    read: (given) => {
      // The command line has read it once.
      const found = isDate(given) ? ofDate(given) : isAskedTime(given) ? given : ofText(given);
      if (found && !Number.isNaN(found.lastMs)) return found;
      throw new QmpBackupError(
        'usage',
        `${isDate(given) ? 'this date' : JSON.stringify(given)} is no time. Give one such as "2026-11-20 10:00".`,
      );
    },
  };
}

/** A time that stands where other things may stand; undefined where it is none. */
export function timeIn(text: string): AskedTime | undefined {
  const found = ofText(text);
  return found && !Number.isNaN(found.lastMs) ? found : undefined;
}

function isAskedTime(given: unknown): given is AskedTime {
  return typeof given === 'object' && given !== null && 'lastMs' in given && typeof given.lastMs === 'number';
}

function ofDate(date: Date): AskedTime | undefined {
  const lastMs = date.getTime();
  return Number.isNaN(lastMs) ? undefined : { lastMs, words: date.toISOString() };
}

const TIME = /^(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(:\d\d)?([.,]\d{1,3})?(?: ?(Z|[+-](?:0\d|1[0-4])(?::?[0-5]\d)?))?)?$/;
const SECOND = 1000;

function ofText(given: unknown): AskedTime | undefined {
  const words = typeof given === 'string' ? given.trim() : '';
  const [, day, time, seconds = '', fraction = '', zone = ''] = TIME.exec(words) ?? [];
  if (day === undefined || (fraction !== '' && seconds === '')) return undefined;
  if (time === undefined) return { lastMs: parseISO(`${day}T23:59:59.999`).getTime(), words };
  const at = parseISO(`${day}T${time}${seconds}${fraction.replace(',', '.')}${zone}`).getTime();
  return { lastMs: fraction === '' ? at + SECOND - 1 : at, words };
}
