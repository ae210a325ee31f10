import type { Command } from 'commander';
import type { HOOK_RULES } from '../config/hooks.js';
import type { RUN_RULES } from '../config/run-settings.js';
import { SETTINGS } from '../config/settings.js';

/** What a key of the configuration means, in words. Those of options are the words of their help. */
export function wordsFor(program: Command): (path: string) => string | undefined {
  return (path) => {
    if (Object.hasOwn(OWN, path)) return OWN[path];
    const [option] = SETTINGS.get(path)?.options ?? [];
    if (!option) return undefined;
    const command = program.commands.find((each) => each.name() === option.verb);
    const found = [...(command?.options ?? []), ...program.options].find(({ long }) => long === option.rule.flag);
    return found?.description;
  };
}

/** Of a VM and of the run. */
export const hookWords: Readonly<Record<keyof typeof HOOK_RULES, string>> = {
  before: 'a command before the first step: words, or one text for the shell; exit code 75: not now',
  after: 'a command at the end, whatever happened',
  'on-error': 'a command where something failed, before that',
  timeout: 'how long each may take',
};
const HOOK_WORDS = Object.fromEntries(Object.entries(hookWords).map(([name, words]) => [`hooks.${name}`, words]));

/** Of keys that are no option of a command, or mean more than it. */
const OWN: Readonly<Record<string, string>> = {
  target: 'folder of the backups; {vm} is the name of the VM, here and in every other text',
  digest: 'false: do not record a digest of each file',
  'vm-name': 'what to call a VM that has no name; with monthly also the name of its folder',
  offline: 'images of a VM that is off, by disk id; beside a socket they are read while nobody listens there',
  'max-age': 'how old the newest good point may be, for status',
  'if-off': 'what is done with a VM that is off: offline (its images are read), skip, or fail',
  'verify.every': 'catalog, files and links are looked at, at most once in this time (1d with read-data-within)',
  'verify.read-data-within': 'every byte is read and proved at least once in this time, a share at each look',
  'verify.boot-every': 'the newest point is started in a throwaway VM, at most once in this time',
  'verify.at-backup': 'compare each new point with the frozen instant before it counts; sample: parts of it',
  ...HOOK_WORDS,
  'verify.qemu-arguments': 'more arguments for the QEMU of boot-every',
};

/** Of the section `run`. */
export const RUN_WORDS: Readonly<Record<keyof typeof RUN_RULES, string>> = {
  parallel: 'so many VMs at a time',
  'max-per-target': 'so many at a time of those whose targets are on one file system',
  jitter: 'begin after a random time of at most this',
  'not-after': 'what has not begun at this time of the day is not begun',
  retries: 'how often a VM or target that is locked or does not answer is tried again',
  'retry-after': 'time between two such attempts',
};
