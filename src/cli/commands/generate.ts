import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Command } from 'commander';
import { QmpBackupError } from '../../errors.js';
import { fileError } from '../../host/file-errors.js';
import { packageVersion } from '../../host/package-version.js';
import { bashCompletion } from '../generate/bash-completion.js';
import { type CommandWords, wordsOf } from '../generate/command-words.js';
import { fishCompletion } from '../generate/fish-completion.js';
import { manPages } from '../generate/man-page.js';
import { zshCompletion } from '../generate/zsh-completion.js';
import { putAnswer } from '../output.js';
import type { Register } from '../register.js';

interface Flags {
  readonly man?: string;
  readonly bashCompletion?: string;
  readonly zshCompletion?: string;
  readonly fishCompletion?: string;
}

export const generateCommand: Register = (program, run) => {
  program
    .command('generate')
    .description('write manual pages, and completions for shells, made from what --help says')
    .option('--man <dir>', 'folder for a manual page of each command, such as /usr/local/share/man/man1')
    .option('--bash-completion <file>', 'completions for bash; - is stdout')
    .option('--zsh-completion <file>', 'completions for zsh; - is stdout')
    .option('--fish-completion <file>', 'completions for fish; - is stdout')
    .addHelpText('after', EXAMPLES)
    .action(run<Flags>((flags) => runGenerate(program, flags)));
};

const EXAMPLES = `
The packages have all of it in place. A TAB asks the program only for points, disks, VMs and domains.

Examples:
  qmpbackup generate --bash-completion /etc/bash_completion.d/qmpbackup
  source <(qmpbackup generate --bash-completion -)
  qmpbackup generate --man /usr/local/share/man/man1`;

async function runGenerate(program: Command, flags: Flags): Promise<void> {
  const words = wordsOf(program);
  const completions = [
    [flags.bashCompletion, bashCompletion],
    [flags.zshCompletion, zshCompletion],
    [flags.fishCompletion, fishCompletion],
  ] as const;
  if (flags.man === undefined && completions.every(([file]) => file === undefined)) {
    throw new QmpBackupError('usage', 'nothing was said to be generated', {
      hint: 'Give --man, --bash-completion, --zsh-completion or --fish-completion.',
    });
  }
  if (flags.man !== undefined) await writePages(flags.man, words);
  for (const [file, make] of completions) {
    if (file === '-') putAnswer(make(words));
    else if (file !== undefined) await write(file, make(words));
  }
}

async function writePages(folder: string, words: CommandWords): Promise<void> {
  try {
    await mkdir(folder, { recursive: true });
  } catch (error) {
    throw fileError('create', folder, error);
  }
  for (const { file, text } of manPages(words, { version: packageVersion(), date: today() })) {
    await write(join(folder, file), text);
  }
}

/** Of the sources where that is told: pages of one version are then the same wherever they are made. */
function today(): string {
  const epoch = process.env['SOURCE_DATE_EPOCH'];
  const date = epoch !== undefined && /^\d+$/.test(epoch) ? new Date(Number(epoch) * 1000) : new Date();
  return date.toISOString().slice(0, 10);
}

async function write(path: string, text: string): Promise<void> {
  try {
    await writeFile(path, text);
  } catch (error) {
    throw fileError('write', path, error);
  }
}
