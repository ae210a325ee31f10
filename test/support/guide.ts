import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { PROGRAM, repositoryRoot } from './cli.js';

/**
 * The commands of a page for users, as a test runs them. Fences say what a block is:
 *
 * - `sh`: a command a line (with `\` at its end it goes on), which ends with 0 or with the code of its comment `# exit code N`;
 * - `cron`, `ini`: the command of a cron table (for root), and of `ExecStart=` of a systemd unit, run like those;
 * - `text` right behind one of these: lines of what its commands print, in order; numbers may be others;
 * - `text` elsewhere, `yaml` and `xml`: not run.
 */
export interface Block {
  readonly language: string;
  readonly text: string;
  /** The nearest heading above. */
  readonly heading: string;
  readonly line: number;
  /** What its commands print. */
  readonly output?: readonly string[];
}

export interface Command {
  readonly line: string;
  readonly exitCode: number;
}

/** Where the page's example is on this machine, and what happens between its sections. */
export interface Example {
  /** What the page names → what the lab has, such as `/backup` → a folder of its own. Asked anew for every block. */
  readonly names: () => Readonly<Record<string, string>>;
  readonly env?: Readonly<Record<string, string>>;
  /** Before the first command below a heading. */
  readonly before?: Readonly<Record<string, () => Promise<unknown>>>;
}

const LANGUAGES = new Set(['sh', 'cron', 'ini', 'text', 'xml', 'json', 'yaml']);

export async function readBlocks(page: string): Promise<Block[]> {
  const lines = (await readFile(join(repositoryRoot, page), 'utf8')).split('\n');
  const blocks: Block[] = [];
  let heading = '';
  let lastEnd = -1;
  for (let at = 0; at < lines.length; at += 1) {
    const line = lines[at] ?? '';
    heading = /^#+ (.*)/.exec(line)?.[1] ?? heading;
    const fence = /^ *```(.*)$/.exec(line);
    if (!fence) continue;
    const end = lines.findIndex((each, index) => index > at && /^ *```$/.test(each));
    const block = {
      language: fence[1] ?? '',
      text: lines.slice(at + 1, end).join('\n'),
      heading,
      line: at + 1,
    };
    if (!LANGUAGES.has(block.language)) throw new Error(`${page}:${block.line}: no such kind of block`);
    const previous = blocks.at(-1);
    if (block.language === 'text' && previous && isRun(previous) && at === lastEnd + 2) {
      blocks[blocks.length - 1] = { ...previous, output: block.text.split('\n') };
    } else blocks.push(block);
    at = lastEnd = end;
  }
  return blocks;
}

export function isRun({ language }: Block): boolean {
  return language === 'sh' || language === 'cron' || language === 'ini';
}

export function commandsOf({ language, text }: Block): Command[] {
  const lines = text.replace(/\\\n */g, '').split('\n');
  return lines.flatMap((line) => {
    const command = commandOf(language, line);
    return command === undefined
      ? []
      : [{ line: command, exitCode: Number(/# exit code (\d+)$/.exec(line)?.[1] ?? 0) }];
  });
}

function commandOf(language: string, line: string): string | undefined {
  if (language === 'cron') return /^(?:\S+ +){5}root +(.*)$/.exec(line)?.[1];
  if (language === 'ini') return /^ExecStart=(?:\/usr\/local\/bin\/)?(.*)$/.exec(line)?.[1];
  return /^\s*(#|$)/.test(line) ? undefined : line;
}

/** Runs all that a page says, and throws where something ends otherwise or prints something else than the page says. */
export async function runPage(page: string, example: Example): Promise<void> {
  const before = new Map(Object.entries(example.before ?? {}));
  for (const block of (await readBlocks(page)).filter(isRun)) {
    await before.get(block.heading)?.();
    before.delete(block.heading);
    const names = example.names();
    let printed = '';
    for (const command of commandsOf(block))
      printed += await runCommand(page, block, command, names, example.env ?? {});
    expectPrinted(page, block, printed, names);
  }
  if (before.size > 0) throw new Error(`${page} has no commands below: ${[...before.keys()].join(', ')}`);
}

async function runCommand(
  page: string,
  block: Block,
  { line, exitCode }: Command,
  names: Readonly<Record<string, string>>,
  env: Readonly<Record<string, string>>,
): Promise<string> {
  const command = named(line, names);
  const stray = /(?:^|[ =])(\/(?:backup|dev|etc|mnt|run|tmp|var)\/[^\s']*)/.exec(named(line, names, ''));
  if (stray && stray[1] !== '/dev/null') throw new Error(`${page}:${block.line}: the example has no ${stray[1]}`);
  const program = `qmpbackup() { '${process.execPath}' '${PROGRAM}' "$@"; }`;
  const result = await execa('bash', ['-c', `exec 2>&1; ${program}; ${command}`], {
    reject: false,
    stdin: 'ignore',
    env: { LC_ALL: 'C', NO_COLOR: '1', PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`, ...env },
  });
  if (result.exitCode !== exitCode) {
    throw new Error(
      `${page}:${block.line}: ${line}\nended with ${result.exitCode}, not ${exitCode}:\n${result.stdout}`,
    );
  }
  return `${result.stdout}\n`;
}

/** `text` with the names of the lab; or with `instead` of each, to see which others it has. */
export function named(text: string, names: Readonly<Record<string, string>>, instead?: string): string {
  const longestFirst = Object.keys(names).sort((a, b) => b.length - a.length);
  const pattern = new RegExp(longestFirst.map((name) => name.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('|'), 'g');
  return text.replace(pattern, (name) => instead ?? names[name] ?? name);
}

function expectPrinted(page: string, block: Block, printed: string, names: Readonly<Record<string, string>>): void {
  const lines = printed.split('\n').map(withoutNumbers);
  let from = 0;
  for (const line of block.output ?? []) {
    const wanted = withoutNumbers(named(line, names));
    const at = lines.indexOf(wanted, from);
    if (at < 0) throw new Error(`${page}:${block.line}: it does not print\n${wanted}\nbut\n${lines.join('\n')}`);
    from = at + 1;
  }
}

function withoutNumbers(line: string): string {
  return line
    .replace(/\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b[0-9a-f]{12,16}\b/g, '#')
    .replace(/\d+(?:[.:-]\d+)*/g, '#')
    .replace(/# (?:[KMGT]i)?B\b/g, '# B')
    .replace(/ +/g, ' ')
    .trim();
}
