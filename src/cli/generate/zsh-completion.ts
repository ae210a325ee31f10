import type { CommandWords, ValueKind } from './command-words.js';
import { completedCommands, type CompletedCommand, type CompletedOption } from './shell-data.js';

/** For zsh's own completion, with what each option says of itself. */
export function zshCompletion(program: CommandWords): string {
  const name = program.names[0] ?? '';
  const commands = completedCommands(program);
  const aliases = new Map(program.commands.flatMap((each) => each.names.map((alias) => [alias, each] as const)));
  const functions = commands.map((command) => functionOf(name, command, commands, aliases));
  return `#compdef ${name}
# made by: ${name} generate --zsh-completion FILE

_${name}_ask() {
  local -a found
  found=(\${(f)"$(\${typed[1]} complete-words $1 -- "\${(@)typed[2,-1]}" 2>/dev/null </dev/null)"})
  found=("\${(@)found//:/\\\\:}")
  found=("\${(@)found/$'\\t'/:}")
  _describe -t $1 $1 found
}

${functions.join('\n\n')}

_${name}() {
  local -a typed=("\${(@)words[1,CURRENT-1]}")
  _${name}_
}

_${name} "$@"
`;
}

function functionOf(
  name: string,
  { path, options, commands, arguments: args }: CompletedCommand,
  all: readonly CompletedCommand[],
  aliases: ReadonlyMap<string, CommandWords>,
): string {
  const specs = options.flatMap((option) => optionSpecs(name, option));
  const lines = (more: readonly string[]): string =>
    ['  _arguments -C -s -S', ...specs, ...more]
      .map((line, index) => (index === 0 ? line : `    ${line}`))
      .join(' \\\n');
  const head = `_${name}_${functionName(path)}() {`;
  if (commands.length === 0) {
    const value = args[0] ?? ({ kind: 'files' } as const);
    return [head, '  local -A opt_args', lines([`'*:${value.kind}:${action(name, value)}'`]), '}'].join('\n');
  }
  const cases = commands.flatMap((each) => {
    const found = path === '' ? aliases.get(each.name)?.path.join(' ') : `${path} ${each.name}`;
    return all.some((one) => one.path === found) ? [`    ${each.name}) _${name}_${functionName(found ?? '')} ;;`] : [];
  });
  return [
    head,
    '  local curcontext=$curcontext state line',
    '  local -A opt_args',
    lines(["'1:command:->command'", "'*::argument:->argument'"]),
    '  case $state in',
    '    command)',
    `      local -a commands=(${commands.map((each) => quoted(`${each.name}:${each.description.replaceAll(':', '\\:')}`)).join(' ')})`,
    '      _describe -t commands command commands ;;',
    '    argument)',
    '      case $line[1] in',
    ...cases.map((line) => `    ${line}`),
    '      esac ;;',
    '  esac',
    '}',
  ].join('\n');
}

function functionName(path: string): string {
  return path.replaceAll(/[ -]/g, '_');
}

function optionSpecs(name: string, { names, description, value, valueIsOptional }: CompletedOption): readonly string[] {
  const others = names.length > 1 ? quoted(`(${names.join(' ')})`) : '';
  const about = `[${description.replaceAll(':', '\\:')}]`;
  return names.map((each) => {
    if (value === null) return `${others}${quoted(`${each}${about}`)}`;
    const joined = !each.startsWith('--') ? '+' : valueIsOptional ? '=-' : '=';
    const colons = valueIsOptional ? '::' : ':';
    return `${others}${quoted(`${each}${joined}${about}${colons}${value.kind}:${action(name, value)}`)}`;
  });
}

function action(name: string, value: ValueKind): string {
  switch (value.kind) {
    case 'words':
      return `(${value.words.join(' ')})`;
    case 'files':
      return '_files';
    case 'folders':
      return '_files -/';
    case 'text':
      return ' ';
    case 'points':
    case 'disks':
    case 'vms':
    case 'domains':
    case 'configured':
      // The space keeps _arguments from adding options of its own.
      return ` _${name}_ask ${value.kind}`;
  }
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
