import { type OptionRule, type OptionRules, wholeNumber } from '../core/option-rules.js';
import { duration, timeOfDay } from '../core/time-span.js';
import { QmpBackupError } from '../errors.js';
import type { Hooks } from './hooks.js';

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
  /** Of the run as a whole. */
  readonly hooks: Hooks;
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
