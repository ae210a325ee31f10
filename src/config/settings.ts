import { BACKUP_OPTIONS } from '../backends/backup-options.js';
import { choice, type OptionRule, words, yesOr } from '../core/option-rules.js';
import { timeSpan } from '../core/time-span.js';
import { PRUNE_OPTIONS } from '../operations/prune/options.js';
import { VERIFY_OPTIONS } from '../operations/verify/options.js';
import { HOOK_RULES } from './hooks.js';

/**
 * All that can be said of a VM in the configuration, by its key: `level`, `keep.daily`, `verify.boot-every`. What a verb can be
 * asked stands with the verb (docs/decisions/0023): its options are the keys here, by the names that they have on the command line.
 */
export interface SettingKey {
  readonly rule: OptionRule<never, unknown>;
  /** Which options of the program it becomes; none of what is for `run` itself. */
  readonly options: readonly VerbOption[];
}

export type Verb = 'backup' | 'prune' | 'verify';

export interface VerbOption {
  readonly verb: Verb;
  readonly rule: OptionRule<never, unknown>;
  /** Its name in a request. */
  readonly name: string;
}

type Rules = Readonly<Record<string, OptionRule<never, unknown>>>;

export const RULES: Readonly<Record<Verb, Rules>> = {
  backup: BACKUP_OPTIONS,
  prune: PRUNE_OPTIONS,
  verify: VERIFY_OPTIONS,
};

/** Those of several verbs, which stand once for a VM. */
const SHARED: Readonly<Record<string, readonly Verb[]>> = {
  target: ['backup', 'prune', 'verify'],
  monthly: ['backup', 'prune', 'verify'],
  vmName: ['backup', 'prune', 'verify'],
  breakLock: ['backup', 'prune', 'verify'],
  connect: ['backup', 'verify'],
};

/** What `run` decides, or what has a key of its own below; and what no file shall ask for unattended. */
const NOT_IN_A_FILE: Readonly<Record<Verb, readonly string[]>> = {
  backup: ['dryRun', 'output', 'format', 'verify'],
  prune: ['dryRun', 'allowRemoveAll'],
  verify: ['point', 'at', 'readData', 'outdatedAfter', 'boot', 'arguments'],
};

/** What `run` does with a VM that is not running. */
export const IF_OFF = ['offline', 'skip', 'fail'] as const;

/** Of `run`, and not of one verb. */
const OF_RUN = {
  /** How old the newest good point may be, for `status`. */
  'max-age': timeSpan('max-age'),
  'if-off': choice('if-off', IF_OFF, 'offline'),
  /** At most once in this time. */
  'verify.every': timeSpan('every'),
  /** Every byte of the target is read at least once in this time. */
  'verify.read-data-within': timeSpan('read-data-within'),
  /** The newest point is started in a throwaway VM, at most once in this time. */
  'verify.boot-every': timeSpan('boot-every'),
} as const;

const QEMU_ARGUMENTS = words('qemu-arguments');

export const SETTINGS: ReadonlyMap<string, SettingKey> = new Map<string, SettingKey>([
  ...sharedKeys(),
  ...keysOf('backup', (name) => name),
  ...keysOf('prune', (name) => `keep.${name.replace(/^keep-/, '')}`),
  ...keysOf('verify', (name) => `verify.${name}`),
  // `verify` of `backup` compares the new point with the instant, and the section of that name has the checks of later.
  ['verify.at-backup', keyOf(yesOr('at-backup', 'sample'), 'backup', 'verify')],
  ['verify.qemu-arguments', { rule: QEMU_ARGUMENTS, options: [] }],
  ...Object.entries(HOOK_RULES).map(([name, rule]) => [`hooks.${name}`, { rule, options: [] }] as const),
  ...Object.entries(OF_RUN).map(([path, rule]) => [path, { rule, options: [] }] as const),
]);

/** Sections of a VM, by the prefix of their keys. */
export const SECTIONS = ['keep', 'verify', 'hooks'] as const;

/** `--no-digest`, which is on unless it is said, is `digest`. */
export function keyName({ flag, fallback }: OptionRule<never, unknown>): string {
  return flag.replace(/^--/, '').replace(fallback === true ? /^no-/ : /^$/, '');
}

function sharedKeys(): readonly (readonly [string, SettingKey])[] {
  return Object.entries(SHARED).flatMap(([name, verbs]) => {
    const options = verbs.flatMap((verb) => optionOf(verb, name));
    const [first] = options;
    return first ? [[keyName(first.rule), { rule: first.rule, options }] as const] : [];
  });
}

function keysOf(verb: Verb, path: (name: string) => string): readonly (readonly [string, SettingKey])[] {
  return Object.entries(RULES[verb])
    .filter(([name]) => !Object.hasOwn(SHARED, name) && !NOT_IN_A_FILE[verb].includes(name))
    .map(([name, rule]) => [path(keyName(rule)), keyOf(rule, verb, name)] as const);
}

function keyOf(rule: OptionRule<never, unknown>, verb: Verb, name: string): SettingKey {
  return { rule, options: optionOf(verb, name) };
}

function optionOf(verb: Verb, name: string): readonly VerbOption[] {
  const rule = RULES[verb][name];
  return rule ? [{ verb, rule, name }] : [];
}
