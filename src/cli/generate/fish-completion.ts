import type { CommandWords, ValueKind } from './command-words.js';
import { completedCommands, type CompletedOption } from './shell-data.js';

/** For fish 3 and later, with what each option says of itself. */
export function fishCompletion(program: CommandWords): string {
  const name = program.names[0] ?? '';
  const commands = completedCommands(program);
  const [all, ...each] = commands;
  const names = new Map(program.commands.map((command) => [command.path[0] ?? '', command.names]));
  const inCommand = (path: string): string => {
    const [first = '', second] = path.split(' ');
    const seen = `__fish_seen_subcommand_from ${(names.get(first) ?? [first]).join(' ')}`;
    return second === undefined ? seen : `${seen}; and __fish_seen_subcommand_from ${second}`;
  };
  const general = new Set(all?.options.map(longOf) ?? []);
  const lines = [
    ...(all?.options ?? []).map((option) => optionLine(name, null, option)),
    ...(all?.commands ?? []).map((one) => commandLine(name, '__fish_use_subcommand', one)),
    ...each.flatMap((command) => [
      ...command.options
        .filter((option) => !general.has(longOf(option)))
        .map((option) => optionLine(name, inCommand(command.path), option)),
      ...command.commands.map((one) => {
        const others = command.commands.map((other) => other.name).join(' ');
        return commandLine(name, `${inCommand(command.path)}; and not __fish_seen_subcommand_from ${others}`, one);
      }),
      ...(command.arguments[0]
        ? [
            `complete -c ${name} -n ${quoted(inCommand(command.path))} ${valueFlags(name, command.arguments[0], 'argument')}`,
          ]
        : []),
    ]),
  ];
  return `# fish completion for ${name}; made by: ${name} generate --fish-completion FILE

function __${name}_ask
    set -l typed (commandline -opc)
    command $typed[1] complete-words $argv[1] -- (string escape --no-quoted -- $typed[2..]) 2>/dev/null </dev/null
end

complete -c ${name} -f
${lines.join('\n')}
`;
}

function commandLine(
  name: string,
  when: string,
  command: { readonly name: string; readonly description: string },
): string {
  return `complete -c ${name} -n ${quoted(when)} -a ${command.name} -d ${quoted(command.description)}`;
}

function optionLine(name: string, when: string | null, option: CompletedOption): string {
  const { names, description, value, valueIsOptional } = option;
  return [
    `complete -c ${name}`,
    ...(when === null ? [] : [`-n ${quoted(when)}`]),
    ...names.map((each) => (each.startsWith('--') ? `-l ${each.slice(2)}` : `-s ${each.slice(1)}`)),
    ...(value === null ? [] : [valueFlags(name, value, valueIsOptional ? 'optional' : 'required')]),
    `-d ${quoted(description)}`,
  ].join(' ');
}

function valueFlags(name: string, value: ValueKind, is: 'required' | 'optional' | 'argument'): string {
  const needed = is === 'required' ? '-x ' : '';
  switch (value.kind) {
    case 'words':
      return `${needed}-a ${quoted(value.words.join(' '))}`;
    case 'files':
      return is === 'required' ? '-r -F' : '-F';
    case 'folders':
      return `${needed}-a '(__fish_complete_directories)'`;
    case 'text':
      return needed.trim();
    case 'points':
    case 'disks':
    case 'vms':
    case 'domains':
    case 'configured':
      return `${needed}-a '(__${name}_ask ${value.kind})'`;
  }
}

function longOf({ names }: CompletedOption): string {
  return names.at(-1) ?? '';
}

/** In fish's single quotes only these two are not themselves. */
function quoted(text: string): string {
  return `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
}
