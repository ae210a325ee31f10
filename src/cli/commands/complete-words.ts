import { homedir } from 'node:os';
import { join } from 'node:path';
import { Argument, type Command } from 'commander';
import { loadConfig } from '../../config/config-file.js';
import { discoveringWithin, vmsOf } from '../../config/discover.js';
import { printableLines } from '../../core/printable.js';
import { fromShellWord } from '../../core/shell-word.js';
import { isLocal } from '../../host/mounts.js';
import { within } from '../../host/within.js';
import { COMPLETION_MS, type PossibleWord, possibleWords, type TypedSoFar } from '../../operations/complete.js';
import { hasRunAsChild } from '../child-run.js';
import { type CompletedKind, COMPLETED_KINDS } from '../generate/command-words.js';
import { putAnswer } from '../output.js';
import type { Register } from '../register.js';

/** What completions ask for: a word a line, and after a tab what is to be shown beside it. */
export const completeWordsCommand: Register = (program, run) => {
  program
    .command('complete-words', { hidden: true })
    .addArgument(new Argument('<kind>').choices(COMPLETED_KINDS))
    .argument('[typed...]')
    .action((kind: CompletedKind, typed: readonly string[], flags: object, command: Command) =>
      run<object>(async () => {
        const { config, ...known } = readTyped(typed);
        const { target } = known;
        if (target !== null && !isLocal(target) && (await hasRunAsChild(target))) return;
        const asked = kind === 'configured' ? configuredVms(config) : possibleWords(kind, known);
        const words = (await within(COMPLETION_MS, asked)) ?? [];
        putAnswer(words.map(({ word, about }) => `${printableLines(word)}\t${printableLines(about)}\n`).join(''));
      })(flags, command),
    );
};

async function configuredVms(named: string | null): Promise<readonly PossibleWord[]> {
  const config = await loadConfig(named ?? undefined);
  const { vms } = await vmsOf(config, discoveringWithin(COMPLETION_MS));
  return vms.map(({ name }) => ({ word: name, about: '' }));
}

/** A line that is not finished yet: what the program itself would refuse may stand in it. */
function readTyped(typed: readonly string[]): TypedSoFar & { readonly config: string | null } {
  const words = typed.map(fromShellWord);
  const valueOf = (...names: readonly string[]): string | null => {
    const found = words.findLastIndex((word) => names.some((name) => word === name || word.startsWith(`${name}=`)));
    const word = words[found];
    if (word === undefined) return null;
    const value = names.includes(word) ? words[found + 1] : word.slice(word.indexOf('=') + 1);
    return value ? withHome(value) : null;
  };
  return {
    target: valueOf('-t', '--target'),
    vmName: valueOf('--vm-name'),
    connect: valueOf('--connect'),
    config: valueOf('--config'),
  };
}

/** Shells hand over words as they were typed. */
function withHome(path: string): string {
  return path === '~' || path.startsWith('~/') ? join(homedir(), path.slice(1)) : path;
}
