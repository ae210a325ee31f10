import { type Command, InvalidArgumentError, Option } from 'commander';
import type { OptionRule, OptionRules, RequestOf } from '../core/option-rules.js';
import { POINT_FORMS } from '../core/point-name.js';
import { QmpBackupError } from '../errors.js';
import { IMAGE_OPTIONS } from '../operations/restore/options.js';

/** Options of the command line, made of the rules that each verb has for what it can be asked. */
interface Look {
  /** `-t`. */
  readonly short?: string;
  /** `<bytes>`; none for a switch. */
  readonly value?: string;
}

/** Of `--point`, wherever there is one. */
export const POINT_HELP = `${POINT_FORMS}; the newest one if not given`;

/** Of `--at`, wherever there is one. */
export const AT_HELP = 'the newest point that is not later, such as "2026-11-20 10:00" in local time';

/** Of the verbs that make images. */
export function addImageOptions(command: Command): Command {
  const { format, verify, owner, rateLimit } = IMAGE_OPTIONS;
  return command
    .addOption(optionOf(format, 'what images are made', { value: '<format>' }))
    .addOption(optionOf(verify, 'do not read the result again, to compare it with the backup'))
    .addOption(optionOf(owner, 'whose the result is, by names or numbers (needs root)', { value: '<user[:group]>' }))
    .addOption(optionOf(rateLimit, 'bytes per second; also 20M', { value: '<bytes>' }));
}

/** The option with the default of its rule; what commander does not check, the rule does. */
export function optionOf(rule: OptionRules[string], description: string, { short, value }: Look = {}): Option {
  const flags = [short === undefined ? rule.flag : `${short}, ${rule.flag}`, ...(value === undefined ? [] : [value])];
  const option = new Option(flags.join(' '), description).makeOptionMandatory(rule.required ?? false);
  if (rule.choices) option.choices(rule.choices);
  // Where the value may be left out, only the rule knows what that means.
  else if (option.required) option.argParser((given, previous) => readText(rule, given, previous));
  if (option.required && isShown(rule.fallback)) option.default(rule.fallback);
  return option;
}

function isShown(fallback: unknown): boolean {
  return typeof fallback === 'string' || (typeof fallback === 'number' && fallback > 0);
}

function readText(rule: OptionRule<never, unknown>, given: string, previous: unknown): unknown {
  try {
    return rule.read(given as never, previous);
  } catch (error) {
    if (!(error instanceof QmpBackupError)) throw error;
    throw new InvalidArgumentError(error.message);
  }
}

/** Of all that was given, what the rules are about; but arguments, which have no flag. */
export function requestFrom<Rules extends OptionRules>(
  rules: Rules,
  flags: Readonly<Record<string, unknown>>,
): RequestOf<Rules> {
  const given = Object.entries(rules)
    .filter(([, { flag }]) => flag.startsWith('-'))
    .map(([key, { flag }]) => [key, flags[new Option(flag).attributeName()]]);
  return Object.fromEntries(given) as RequestOf<Rules>;
}
