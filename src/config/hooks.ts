import type { OptionRule, OptionRules } from '../core/option-rules.js';
import { duration } from '../core/time-span.js';
import { QmpBackupError } from '../errors.js';

/** Commands that are run before and after a VM, or a whole run (docs/decisions/0038). */
export interface Hooks {
  readonly before: HookCommand | null;
  readonly after: HookCommand | null;
  readonly 'on-error': HookCommand | null;
  /** Milliseconds for each. */
  readonly timeoutMs: number;
}

/** Words of a command; one text is for the shell. */
export type HookCommand = string | readonly string[];

export const HOOKS = ['before', 'after', 'on-error'] as const;
export type HookName = (typeof HOOKS)[number];

const TIMEOUT_MS = 5 * 60_000;

export const HOOK_RULES = {
  before: command('before'),
  after: command('after'),
  'on-error': command('on-error'),
  timeout: duration('timeout', TIMEOUT_MS),
} as const satisfies OptionRules;

export const NO_HOOKS: Hooks = { before: null, after: null, 'on-error': null, timeoutMs: TIMEOUT_MS };

function command(flag: string): OptionRule<HookCommand, HookCommand | null> {
  return {
    flag,
    fallback: null,
    read: (given) => {
      if (typeof given === 'string') return given;
      if (Array.isArray(given) && given.length > 0) return given as readonly string[];
      throw new QmpBackupError('usage', 'give a list of words, or one text for the shell.');
    },
  };
}

/** Of a VM, or of `run`: what is given there by `HOOK_RULES`. */
export function hooksFrom(given: (key: keyof typeof HOOK_RULES) => unknown): Hooks {
  const read = (key: HookName): HookCommand | null => (given(key) as HookCommand | undefined) ?? null;
  const timeout = given('timeout');
  return {
    before: read('before'),
    after: read('after'),
    'on-error': read('on-error'),
    timeoutMs: timeout === undefined ? TIMEOUT_MS : HOOK_RULES.timeout.read(timeout as string),
  };
}
