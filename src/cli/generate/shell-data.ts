import { type CommandWords, everyCommand, type ValueKind } from './command-words.js';

/** What is the same for each shell: which words may follow in which command. */
export interface CompletedCommand {
  /** As typed, `files ls`; empty of the program itself. */
  readonly path: string;
  readonly options: readonly CompletedOption[];
  readonly commands: readonly { readonly name: string; readonly description: string }[];
  readonly arguments: readonly ValueKind[];
}

export interface CompletedOption {
  readonly names: readonly string[];
  readonly description: string;
  readonly value: ValueKind | null;
  readonly valueIsOptional: boolean;
}

/** Each command with its own options and those that all have. */
export function completedCommands(program: CommandWords): readonly CompletedCommand[] {
  return everyCommand(program).map((command) => {
    const own = command.options;
    const all =
      command === program ? own : [...own, ...program.options.filter((each) => !own.some(isCalled(each.long)))];
    return {
      path: command.path.join(' '),
      options: all.map(({ long, short, description, value, valueIsOptional }) => ({
        names: short === null ? [long] : [short, long],
        ...{ description: firstLine(description), value, valueIsOptional },
      })),
      commands: command.commands.flatMap(({ names, description }) =>
        names.map((name) => ({ name, description: firstLine(description) })),
      ),
      arguments: command.arguments.map(({ value }) => value),
    };
  });
}

/** A command is known by each of its names. */
export function pathsOf(program: CommandWords): ReadonlyMap<string, string> {
  return new Map(
    everyCommand(program).flatMap(({ path, names }) =>
      path.length === 0 ? [] : names.map((name) => [[...path.slice(0, -1), name].join(' '), path.join(' ')]),
    ),
  );
}

function isCalled(name: string): (option: { readonly long: string }) => boolean {
  return ({ long }) => long === name;
}

/** Shells show a line, and some read brackets in it as their own. */
function firstLine(description: string): string {
  return (description.replace(/\s*\((choices|default)\b.*$/s, '').split(/[\n;]/)[0] ?? '')
    .replaceAll(/[[\]]/g, '')
    .trim();
}
