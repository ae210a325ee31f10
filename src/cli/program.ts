import { Command, Option } from 'commander';
import { refuseContradiction } from '../backends/vm-options.js';
import { emptyValue } from '../core/option-rules.js';
import { messageOf } from '../errors.js';
import { packageVersion } from '../host/package-version.js';
import { backupCommand } from './commands/backup.js';
import { JSON_FORMS } from './json-form.js';
import { put, putAnswer } from './output.js';
import type { Register, Runner } from './register.js';
import { type CommandContext, createContext, type GlobalOptions } from './wiring.js';

/** The other verbs by all their names. */
const OTHERS = [
  ...[
    'list',
    'verify',
    'info',
    'restore',
    'serve',
    'mount',
    'umount',
    'files',
    'boot',
    'prune',
    'consolidate',
    'consolidate-source',
    'pin',
    'unpin',
    'note',
    'rebase',
    'commit',
    'merge',
    'export',
    'import',
    'cleanup',
    'recover',
    'doctor',
    'generate',
    'complete-words',
    'run',
    'status',
    'report',
    'config',
    'notify',
  ],
  ...['help', '--help', '-h'],
];

/** In the order of the help. Most runs are backups: those read no other command (docs/decisions/0001). */
async function commandsFor(args: readonly string[]): Promise<readonly Register[]> {
  const isBackup = args.includes('backup') && !OTHERS.some((name) => args.includes(name));
  return isBackup ? [backupCommand] : [backupCommand, ...(await import('./other-commands.js')).OTHER_COMMANDS];
}

/** @param args may name a verb more than is meant; what is not named is not there */
export async function buildProgram(
  args: readonly string[],
  signal: AbortSignal,
  onContext: (context: CommandContext) => void,
): Promise<Command> {
  const program = new Command('qmpbackup')
    .description('Live, incremental, provably restorable backups of running QEMU virtual machines.')
    .version(packageVersion())
    .exitOverride()
    .configureOutput({ writeOut: printHelp, writeErr: (text) => void put(process.stderr, text) })
    .configureHelp({ showGlobalOptions: true, optionTerm: termOf })
    .showHelpAfterError('Run with --help for all options.')
    .option('--socket <path>', "the VM's QMP monitor: a unix socket path, or tcp:HOST:PORT")
    .option('--domain <name>', 'a libvirt domain instead, by name or UUID')
    .option('--connect <uri>', 'the libvirt that is asked (default: as virsh)')
    .option('--agent-socket <path>', "socket of the VM's guest agent, needed to freeze the guest")
    .addOption(
      new Option(
        '--json <form>',
        'print the answer as one JSON document on stdout; =lines: all that is said, too, a document a line',
      ).choices(JSON_FORMS),
    )
    .option('--strict', 'end with exit code 5 where there is a warning, such as a disk that is not in the backup')
    .option('--quiet', 'say only warnings and errors beside the answer')
    .option('--verbose', 'say more')
    .option('--debug', 'say everything, each QMP message included')
    .option('-L, --logfile <path>', 'append what is said to this file too')
    .option('--syslog', 'send what is said to syslog too')
    .addOption(new Option('--color <when>', 'colours').choices(['auto', 'always', 'never']).default('auto'))
    .addHelpText('after', EXAMPLES);
  const run: Runner = (body) => async (options, command) => {
    refuseEmpty(command);
    const context = createContext(command.optsWithGlobals<GlobalOptions>(), signal);
    onContext(context);
    refuseContradiction(context.globals);
    await body(options, context);
  };
  for (const register of await commandsFor(args)) register(program, run);
  return program;
}

function refuseEmpty(command: Command): void {
  const values = command.optsWithGlobals<Record<string, unknown>>();
  const options = [...command.options, ...(command.parent?.options ?? [])];
  const empty = options.find((option) => values[option.attributeName()] === '');
  const name = empty ? (empty.long ?? empty.flags) : command.args.includes('') ? 'an argument' : null;
  if (name !== null) throw emptyValue(name);
}

/** The value of `--json` may be left out, and only follows `=`. */
function termOf({ long, flags }: Option): string {
  return long === '--json' ? '--json[=lines]' : flags;
}

/** Help and version, where they were asked for. */
function printHelp(text: string): void {
  const error = putAnswer(text);
  if (error) put(process.stderr, `error: the answer could not be written to stdout: ${messageOf(error)}\n`);
}

const EXAMPLES = `
Examples:
  qmpbackup --socket /run/vm.qmp backup --monthly --target /backup
  qmpbackup list --target /backup/vm/2026-11
  qmpbackup restore --target /backup/vm/2026-11 --output /var/lib/restored

Exit codes: 0 done, 1 failed, 2 bad usage, 3 done for some, 4 damage found, 5 warnings under --strict,
10 no catalog, 11 locked, 12 VM unreachable, 13 refused because it would not be safe, 130/143 interrupted.`;
