import { type CommandWords, everyCommand, type OptionWords } from './command-words.js';

/** Manual pages, section 1, in the macros that every man has; one for the program and one for each command. */
export interface ManPage {
  /** `qmpbackup-files-ls.1`. */
  readonly file: string;
  readonly text: string;
}

export interface ManFacts {
  readonly version: string;
  /** `2026-11-30`: a page says when it was made. */
  readonly date: string;
}

export function manPages(program: CommandWords, facts: ManFacts): readonly ManPage[] {
  return everyCommand(program).map((command) => ({
    file: `${pageName(program, command)}.1`,
    text: manPage(program, command, facts),
  }));
}

function pageName(program: CommandWords, { path }: CommandWords): string {
  return [program.names[0] ?? '', ...path].join('-');
}

function manPage(program: CommandWords, command: CommandWords, { version, date }: ManFacts): string {
  const name = pageName(program, command);
  const isProgram = command === program;
  const { about, examples, exitStatus } = readNotes(command.notes);
  const others = isProgram ? [] : [program];
  const sections: readonly (readonly [string, readonly string[]])[] = [
    ['NAME', [`${escaped(name)} \\-`, ...textLines(firstWords(command.description))]],
    ['SYNOPSIS', synopsis(program, command)],
    ['DESCRIPTION', [...paragraph(`${sentence(command.description)}`), ...about]],
    ['COMMANDS', command.commands.flatMap((each) => commandEntry(program, each))],
    [
      'ARGUMENTS',
      command.arguments.flatMap(({ name: word, description }) => entry(`\\fI${escaped(word)}\\fP`, description)),
    ],
    ...optionSections(command.options),
    ['EXIT STATUS', exitStatus],
    ['EXAMPLES', examples],
    ['SEE ALSO', seeAlso(program, [...others, ...command.commands])],
  ];
  return [
    `.TH ${name.toUpperCase()} 1 ${date} "${program.names[0]} ${version}" "User Commands"`,
    ...sections.flatMap(([title, lines]) => (lines.length === 0 ? [] : [`.SH ${title}`, ...lines])),
    '',
  ].join('\n');
}

function synopsis(program: CommandWords, { path, usage, names }: CommandWords): readonly string[] {
  const all = path.length === 0 ? [names[0] ?? ''] : names;
  return all.flatMap((name, index) => {
    const words = [program.names[0] ?? '', ...path.slice(0, -1), ...(path.length === 0 ? [] : [name])];
    return [...(index > 0 ? ['.br'] : []), `.B ${escaped(words.join(' '))}`, escaped(usage)];
  });
}

function commandEntry(program: CommandWords, command: CommandWords): readonly string[] {
  return entry(
    `\\fB${escaped(command.names.join(', '))}\\fP`,
    `${command.description} (${pageName(program, command)}(1))`,
  );
}

function optionSections(options: readonly OptionWords[]): readonly (readonly [string, readonly string[]])[] {
  const groups = [...new Set(options.map(({ group }) => group))];
  const lines = groups.flatMap((group) => [
    ...(group === null ? [] : [`.SS ${escaped(group)}`]),
    ...options
      .filter((option) => option.group === group)
      .flatMap(({ flags, description }) => entry(flagsOf(flags), description)),
  ]);
  return [['OPTIONS', lines]];
}

/** The name in bold, what it takes in italics. */
function flagsOf(flags: string): string {
  return flags
    .split(/([<[][^>\]]+[>\]])/)
    .map((part) => (/^[<[]/.test(part) ? `\\fI${escaped(part)}\\fP` : part === '' ? '' : `\\fB${escaped(part)}\\fP`))
    .join('');
}

function entry(tag: string, description: string): readonly string[] {
  return ['.TP', tag, ...(description === '' ? ['\\&'] : textLines(description))];
}

/** What a command says below its options: paragraphs, a list of exit codes, examples. */
function readNotes(notes: string): Readonly<Record<'about' | 'examples' | 'exitStatus', readonly string[]>> {
  const blocks = notes.split(/\n\s*\n/).filter((block) => block.trim() !== '');
  const is = (start: string) => (block: string) => block.startsWith(start);
  const [examples, exit] = [blocks.filter(is('Examples:')), blocks.filter(is('Exit codes:'))];
  const rest = blocks.filter((block) => !examples.includes(block) && !exit.includes(block));
  return {
    about: rest.flatMap((block) => ['.PP', ...(/^ /m.test(block) ? asTyped(block) : textLines(block))]),
    examples: examples.flatMap((block) => asTyped(block.replace(/^Examples:\n/, ''))),
    exitStatus: exit.flatMap((block) => textLines(block.replace(/^Exit codes:\s*/, ''))),
  };
}

function paragraph(text: string): readonly string[] {
  return text === '' ? [] : textLines(text);
}

function asTyped(block: string): readonly string[] {
  const lines = block.split('\n').map((line) => escaped(line.replace(/^ {2}/, '')));
  return ['.nf', ...lines, '.fi'];
}

/** A new sentence begins a line, as roff sets a wider space after its end. */
function textLines(text: string): readonly string[] {
  const sentences = text
    .replaceAll(/\s+/g, ' ')
    .trim()
    .split(/(?<=[.!?]) (?=[A-Z])/);
  return sentences.flatMap(wrapped).map(escaped);
}

const WIDTH = 72;

function wrapped(text: string): readonly string[] {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const line = lines.at(-1);
    if (line === undefined || line.length + word.length >= WIDTH) lines.push(word);
    else lines[lines.length - 1] = `${line} ${word}`;
  }
  return lines;
}

function seeAlso(program: CommandWords, commands: readonly CommandWords[]): readonly string[] {
  const pages = commands.map((each) => pageName(program, each)).toSorted();
  return pages.map((page, index) => `.BR ${escaped(page)} (1)${index < pages.length - 1 ? ' ,' : ''}`);
}

/** A dash is a minus, since people copy it; a line must not begin like a request. */
function escaped(text: string): string {
  return text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replace(/^([.'])/, '\\&$1');
}

function firstWords(description: string): string {
  return (description.split(/[.;:]/)[0] ?? '').trim();
}

function sentence(text: string): string {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return whole === '' || /[.!?]$/.test(whole) ? whole : `${whole}.`;
}
