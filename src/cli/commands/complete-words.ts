import { homedir } from 'node:os';
import { join } from 'node:path';
import { Argument, type Command } from 'commander';
import { printableLines } from '../../core/printable.js';
import { type AskedKind, possibleWords, type TypedSoFar } from '../../operations/complete.js';
import { ASKED_KINDS } from '../generate/command-words.js';
import { putAnswer } from '../output.js';
import type { Register } from '../register.js';

/** What completions ask for: a word a line, and after a tab what is to be shown beside it. */
export const completeWordsCommand: Register = (program, run) => {
  program
    .command('complete-words', { hidden: true })
    .addArgument(new Argument('<kind>').choices(ASKED_KINDS))
    .argument('[typed...]')
    .action((kind: AskedKind, typed: readonly string[], flags: object, command: Command) =>
      run<object>(async () => {
        const words = await possibleWords(kind, readTyped(typed));
        putAnswer(words.map(({ word, about }) => `${printableLines(word)}\t${printableLines(about)}\n`).join(''));
      })(flags, command),
    );
};

/** A line that is not finished yet: what the program itself would refuse may stand in it. */
function readTyped(typed: readonly string[]): TypedSoFar {
  const valueOf = (...names: readonly string[]): string | null => {
    const found = typed.findLastIndex((word) => names.some((name) => word === name || word.startsWith(`${name}=`)));
    const word = typed[found];
    if (word === undefined) return null;
    const value = names.includes(word) ? typed[found + 1] : word.slice(word.indexOf('=') + 1);
    return value ? withHome(value) : null;
  };
  return { target: valueOf('-t', '--target'), vmName: valueOf('--vm-name'), connect: valueOf('--connect') };
}

/** Shells hand over words as they were typed. */
function withHome(path: string): string {
  return path === '~' || path.startsWith('~/') ? join(homedir(), path.slice(1)) : path;
}
