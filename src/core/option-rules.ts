import { QmpBackupError } from '../errors.js';
import { isComponent } from './names.js';

/**
 * One option of a verb, wherever it is given: on the command line, to the library, in a file. Names, units, defaults and
 * what a value may be are the same there; only the command line has everything as text.
 */
export interface OptionRule<Given, Value> {
  /** What people call it. */
  readonly flag: string;
  /** What it is where nobody gives it; of an option that must be given, nothing. */
  readonly fallback: Value | undefined;
  readonly required?: boolean;
  readonly choices?: readonly string[];
  /**
   * `previous`: what the same option gave before, on a command line that repeats it.
   *
   * @throws QmpBackupError `usage`, without the name of the option
   */
  read(this: void, given: Given, previous?: Value): Value;
}

export type OptionRules = Readonly<Record<string, OptionRule<never, unknown>>>;

type Given<Rule> = Rule extends OptionRule<infer Gives, unknown> ? Gives : never;

type RequiredIn<Rules extends OptionRules> = {
  [Key in keyof Rules]: Rules[Key] extends { readonly required: true } ? Key : never;
}[keyof Rules];

/** What a caller gives: what it leaves out, or gives as null, has the default. */
export type RequestOf<Rules extends OptionRules> = {
  readonly [Key in keyof Rules as Key extends RequiredIn<Rules> ? Key : never]: Given<Rules[Key]>;
} & {
  readonly [Key in keyof Rules as Key extends RequiredIn<Rules> ? never : Key]?: Given<Rules[Key]> | null | undefined;
};

export type ValuesOf<Rules extends OptionRules> = {
  readonly [Key in keyof Rules]: Rules[Key] extends OptionRule<never, infer Value> ? Value : never;
};

/** @throws QmpBackupError `usage` for an option that is not there, or a value that is none */
export function valuesOf<Rules extends OptionRules>(rules: Rules, request: RequestOf<Rules>): ValuesOf<Rules> {
  if (!isRecord(request)) throw usage('the request is no object with options');
  const given: Readonly<Record<string, unknown>> = request;
  const unknown = Object.keys(given).find((key) => !Object.hasOwn(rules, key));
  if (unknown !== undefined) {
    throw new QmpBackupError('usage', `there is no option ${unknown}`, {
      hint: `There are: ${Object.keys(rules).join(', ')}`,
    });
  }
  const values = Object.entries(rules).map(([key, rule]) => [key, valueOf(rule, given[key])]);
  return Object.fromEntries(values) as ValuesOf<Rules>;
}

function valueOf({ flag, fallback, required, read }: OptionRule<never, unknown>, given: unknown): unknown {
  if (given === undefined || given === null) {
    if (required) throw new QmpBackupError('usage', `the required option ${flag} was not given`);
    return fallback;
  }
  if (given === '') throw emptyValue(flag);
  try {
    return read(given as never);
  } catch (error) {
    if (!(error instanceof QmpBackupError)) throw error;
    // `--verify=most is not known`
    const message = error.message.startsWith('=') ? `${flag}${error.message}` : `${flag}: ${error.message}`;
    throw new QmpBackupError(error.code, message, error.hint === undefined ? {} : error);
  }
}

/** A variable that a script forgot to set must not become the current folder. */
export function emptyValue(name: string): QmpBackupError {
  return new QmpBackupError('usage', `${name} has an empty value`, {
    hint: 'Give one, or leave it out. Is a variable of a script not set?',
  });
}

function usage(words: string): QmpBackupError {
  return new QmpBackupError('usage', words);
}

// --- kinds of options -----------------------------------------------------------------------------------------------

export function yesOrNo(flag: string, fallback = false): OptionRule<boolean, boolean> {
  return {
    flag,
    fallback,
    read: (given) => {
      if (typeof given === 'boolean') return given;
      throw usage('say true or false.');
    },
  };
}

/** Off, on, or on in a way of its own: `--verify`, `--verify=sample`. */
export function yesOr<const Word extends string>(
  flag: string,
  word: Word,
): OptionRule<boolean | Word, boolean | Word> & { readonly word: Word } {
  return {
    flag,
    word,
    fallback: false,
    read: (given) => {
      if (typeof given === 'boolean') return given;
      if (given === word) return word;
      throw new QmpBackupError('usage', `=${given} is not known`, {
        hint: `Use ${flag} or ${flag}=${word}.`,
      });
    },
  };
}

export function choice<const Choice extends string>(
  flag: string,
  choices: readonly Choice[],
  fallback: NoInfer<Choice> | undefined,
): OptionRule<Choice, Choice> {
  return {
    flag,
    fallback,
    choices,
    read: (given) => {
      const found = choices.find((each) => each === given);
      if (found !== undefined) return found;
      throw usage(`${JSON.stringify(given)} is not one of ${choices.join(', ')}.`);
    },
  };
}

export function requiredChoice<const Choice extends string>(
  flag: string,
  choices: readonly Choice[],
): OptionRule<Choice, Choice> & { readonly required: true } {
  return { ...choice<Choice>(flag, choices, undefined), required: true };
}

export function word(flag: string): OptionRule<string, string | null> {
  return { flag, fallback: null, read: readText };
}

export function requiredWord(flag: string): OptionRule<string, string> & { readonly required: true } {
  return { flag, fallback: undefined, required: true, read: readText };
}

/** A word with a default. */
export function wordOr(flag: string, fallback: string): OptionRule<string, string> {
  return { flag, fallback, read: readText };
}

function readText(given: string): string {
  if (typeof given !== 'string') throw usage('give one text.');
  if (given.includes('\0')) throw usage('it has a NUL character in it.');
  return given;
}

const UNITS: Readonly<Record<string, number>> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };

/** Bytes: a plain number, or text with K, M, G or T (powers of 1024). */
export function bytes<const Fallback extends number | null>(
  flag: string,
  fallback: Fallback,
): OptionRule<number | string, number | Fallback> {
  return { flag, fallback, read: readBytes };
}

function readBytes(given: number | string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?$/i.exec(String(given).trim());
  const unit = UNITS[(match?.[2] ?? '?').toUpperCase()];
  const found = match && unit !== undefined ? Math.round(Number(match[1]) * unit) : NaN;
  if (!isNumberOrText(given) || !Number.isSafeInteger(found))
    throw usage('give bytes, such as 1048576, 512K, 20M or 1G.');
  return found;
}

function isNumberOrText(given: unknown): given is number | string {
  return typeof given === 'number' || typeof given === 'string';
}

function isRecord(given: unknown): given is object {
  return typeof given === 'object' && given !== null && !Array.isArray(given);
}

/** A timer of Node's takes no more than 24 days, and nothing here is waited for that long. */
const LONGEST_SECONDS = 86_400;
const SECONDS: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3_600 };

/** Seconds: a plain number, also as text, or text with s, m or h. */
export function seconds(flag: string, fallback: number): OptionRule<number | string, number> {
  return { flag, fallback, read: readSeconds };
}

function readSeconds(given: number | string): number {
  const [, count = '', unit = 's'] = /^(.*?)([smh])?$/s.exec(String(given).trim()) ?? [];
  const found = isNumberOrText(given) && count !== '' ? Number(count) * (SECONDS[unit] ?? NaN) : NaN;
  if (found > 0 && found <= LONGEST_SECONDS) return found;
  throw usage('give a number of seconds greater than 0, at most a day, or a time such as 90s, 10m or 2h.');
}

/** How many; a whole number of at least 1, also as text. */
export function wholeNumber(flag: string): OptionRule<number | string, number | null> {
  return { flag, fallback: null, read: readCount };
}

function readCount(given: number | string): number {
  const found = isNumberOrText(given) && /^\d{1,9}$/.test(String(given)) ? Number(given) : NaN;
  if (found >= 1) return found;
  throw usage('give a whole number of at least 1.');
}

/** A TCP port, also as text. */
export function portNumber(flag: string): OptionRule<number | string, number | null> {
  return { flag, fallback: null, read: readPort };
}

function readPort(given: number | string): number {
  const found = isNumberOrText(given) && /^\d+$/.test(String(given)) ? Number(given) : NaN;
  if (found >= 1 && found <= 65_535) return found;
  throw usage('give a port from 1 to 65535.');
}

/** Names, of which all count; as text they are split at commas. */
export function names(flag: string): OptionRule<readonly string[] | string, readonly string[]> {
  return {
    flag,
    fallback: [],
    read: (given, previous = []) => {
      const found = typeof given === 'string' ? given.split(',').map((name) => name.trim()) : readTexts(given);
      const named = found.filter((name) => name !== '');
      // All disks, say, is not what somebody meant who named none.
      if (named.length === 0) throw usage('give at least one name.');
      return [...previous, ...named];
    },
  };
}

/** Texts that are taken as they are, each from an option of its own. */
export function words(flag: string): OptionRule<readonly string[] | string, readonly string[]> {
  return {
    flag,
    fallback: [],
    read: (given, previous = []) => {
      const found = typeof given === 'string' ? [given] : readTexts(given);
      if (found.includes('')) throw usage('it is empty. Is a variable of a script not set?');
      return [...previous, ...found];
    },
  };
}

function readTexts(given: readonly string[]): readonly string[] {
  if (!Array.isArray(given)) throw usage('give a list of texts.');
  return given.map(readText);
}

/** Files by disk id; as text `ID=FILE`. */
export function filesByDisk(
  flag: string,
): OptionRule<Readonly<Record<string, string>> | string, Readonly<Record<string, string>>> {
  return {
    flag,
    fallback: {},
    read: (given, previous = {}) => {
      const added = typeof given === 'string' ? readPair(given) : given;
      if (!isRecord(added)) throw usage('give files by disk id.');
      for (const [name, file] of Object.entries(added)) {
        if (!isComponent(name)) throw usage(`${name} is no disk id: letters, digits and . _ + : @ - only.`);
        if (typeof file !== 'string' || file === '') throw usage(`give a file for ${name}.`);
        if (Object.hasOwn(previous, name)) throw usage(`${name}=${previous[name]} was given before.`);
      }
      return { ...previous, ...added };
    },
  };
}

function readPair(given: string): Readonly<Record<string, string>> {
  const [, name, file] = /^([^=]+)=(.+)$/s.exec(given) ?? [];
  if (name !== undefined && file !== undefined) return { [name]: file };
  throw usage('give NAME=FILE, such as disk1=/var/lib/vm/disk1.qcow2.');
}
