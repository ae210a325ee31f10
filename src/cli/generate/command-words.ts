import type { Argument, Command, Help, Option } from 'commander';
import type { AskedKind } from '../../operations/complete.js';

/** A command as its help tells of it: what man pages and completions are made of, so that none of them says anything else. */
export interface CommandWords {
  /** As people type it, without the program's own name: `['files', 'ls']`; empty of the program itself. */
  readonly path: readonly string[];
  /** Its last word and other names for it. */
  readonly names: readonly string[];
  readonly description: string;
  /** What may follow the name, `[options] <point>`. */
  readonly usage: string;
  readonly arguments: readonly ArgumentWords[];
  readonly options: readonly OptionWords[];
  /** The text below the options: notes, examples, exit codes. */
  readonly notes: string;
  readonly commands: readonly CommandWords[];
}

export interface ArgumentWords {
  readonly name: string;
  readonly description: string;
  readonly variadic: boolean;
  readonly value: ValueKind;
}

export interface OptionWords {
  /** As help has it, `-t, --target <dir>`. */
  readonly flags: string;
  readonly long: string;
  readonly short: string | null;
  /** With choices and default, as in the help. */
  readonly description: string;
  /** Null outside of all groups. */
  readonly group: string | null;
  /** Null of a switch. */
  readonly value: ValueKind | null;
  /** The value may be left out, and is given after `=` if at all. */
  readonly valueIsOptional: boolean;
}

/** What only a target, a libvirt or the configuration (`configured`: its VMs) knows. */
export type CompletedKind = AskedKind | 'configured';

/** What can be put in for a value: words that are known, files, or what has to be asked for. */
export type ValueKind =
  | { readonly kind: 'words'; readonly words: readonly string[] }
  | { readonly kind: 'files' | 'folders' | 'text' }
  | { readonly kind: CompletedKind };

export const COMPLETED_KINDS: readonly CompletedKind[] = ['points', 'disks', 'vms', 'domains', 'configured'];

/** The program with all its commands. */
export function wordsOf(program: Command): CommandWords {
  return commandWords(program, []);
}

function commandWords(command: Command, path: readonly string[]): CommandWords {
  const help = command.createHelp();
  const commands = help.visibleCommands(command).filter((each) => each.name() !== 'help');
  return {
    path,
    names: [command.name(), ...command.aliases()],
    description: command.description(),
    usage: command.usage(),
    arguments: command.registeredArguments.map(argumentWords),
    options: help.visibleOptions(command).map((option) => optionWords(option, help)),
    notes: notesOf(command),
    commands: commands.map((each) => commandWords(each, [...path, each.name()])),
  };
}

function argumentWords(argument: Argument): ArgumentWords {
  const { description, variadic } = argument;
  return { name: argument.name(), description, variadic, value: kindOf(argument.name(), argument.argChoices) };
}

function optionWords(option: Option, help: Help): OptionWords {
  const placeholder = /[<[]([^>\]]+)/.exec(option.flags)?.[1];
  const long = option.long ?? option.flags;
  return {
    flags: help.optionTerm(option),
    long,
    short: option.short ?? null,
    description: help.optionDescription(option),
    group: option.helpGroupHeading?.replace(/:$/, '') ?? null,
    value: placeholder === undefined ? null : (KIND_OF_OPTION[long] ?? kindOf(placeholder, option.argChoices)),
    // Only `--json` of the options that help shows with a value does without one.
    valueIsOptional: option.optional || long === '--json',
  };
}

/** Where the placeholder is a word for anything. */
const KIND_OF_OPTION: Readonly<Record<string, ValueKind>> = {
  '--domain': { kind: 'domains' },
  '--vm-name': { kind: 'vms' },
};

const KIND_OF_PLACEHOLDER: Readonly<Record<string, ValueKind>> = {
  path: { kind: 'files' },
  file: { kind: 'files' },
  'disk=file': { kind: 'files' },
  'disk=path': { kind: 'files' },
  dir: { kind: 'folders' },
  diskdir: { kind: 'folders' },
  mountpoint: { kind: 'folders' },
  point: { kind: 'points' },
  disks: { kind: 'disks' },
  ids: { kind: 'disks' },
  id: { kind: 'disks' },
  vm: { kind: 'configured' },
};

function kindOf(placeholder: string, choices: readonly string[] | undefined): ValueKind {
  if (choices) return { kind: 'words', words: choices };
  return KIND_OF_PLACEHOLDER[placeholder] ?? { kind: 'text' };
}

/** Commander keeps it only as what writes it, after the help itself. */
function notesOf(command: Command): string {
  const written: string[] = [];
  const output = command.configureOutput();
  command.configureOutput({ writeOut: (text) => written.push(text) });
  command.outputHelp();
  command.configureOutput(output);
  return written.slice(1).join('').trim();
}

/** All commands below, each after the one it belongs to. */
export function everyCommand(words: CommandWords): readonly CommandWords[] {
  return [words, ...words.commands.flatMap(everyCommand)];
}
