import { printable } from '../../core/printable.js';
import { RECOVER_OPTIONS } from '../../operations/recover/options.js';
import type { RecoveredTarget, RecoverResult } from '../../operations/recover/recover.js';
import { recover } from '../../operations/recover/recover.js';
import { hasRunAsChild } from '../child-run.js';
import { recoverDocument } from '../documents/recover.js';
import { optionOf, requestFrom } from '../options.js';
import type { Register } from '../register.js';
import { repairText } from '../render/repairs.js';
import { formatTime } from '../render/units.js';
import type { CommandContext } from '../wiring.js';

interface Flags {
  readonly target: string;
}

export const recoverCommand: Register = (program, run) => {
  const { target, monthly, vmName, dryRun, breakLock } = RECOVER_OPTIONS;
  program
    .command('recover')
    .description('repair what a run that died left behind in the VM and in a target; each backup does it too')
    .addOption(optionOf(target, 'folder of the backups', { short: '-t', value: '<dir>' }))
    .addOption(optionOf(monthly, 'every month of this VM, <target>/<vm name>/<YYYY-MM>, in which a run died'))
    .addOption(
      optionOf(vmName, 'what the VM is called that has no name, or that is not asked (no --socket or --domain)', {
        value: '<name>',
      }),
    )
    .addOption(optionOf(dryRun, 'say what would be repaired'))
    .addOption(optionOf(breakLock, 'take a lock that another host holds'))
    .addHelpText('after', EXAMPLES)
    .action(run<Flags>(runRecover));
};

const EXAMPLES = `
Without --socket or --domain only what needs no QEMU is repaired (exit code 3 when that is not all): files of the dead run that no
QEMU writes any more go, and a guest that it froze is thawed. run.json stays for a run that can ask the VM.

Examples:
  qmpbackup --socket /run/vm.qmp recover --target /backup/vm --dry-run
  qmpbackup --socket /run/vm.qmp --agent-socket /run/vm.qga recover --target /backup --monthly
  qmpbackup --domain web1 recover --target /backup/web1
  qmpbackup recover --target /backup/vm`;

async function runRecover(flags: Flags, context: CommandContext): Promise<void> {
  const { globals, signal, trace } = context;
  if (await hasRunAsChild(flags.target)) return;
  const result = await recover(requestFrom(RECOVER_OPTIONS, { ...globals, ...flags }), {
    signal,
    trace,
    report: context.warn,
  });
  context.done(
    (warnings) => recoverDocument(result, warnings),
    () => render(result),
    result.dryRun ? 'nothing was changed' : 'what could be repaired is repaired',
  );
  if (!result.dryRun && result.targets.some(({ left }) => left.length > 0)) context.endWith('partial');
}

function render({ targets, vm, dryRun }: RecoverResult): string {
  const lines = [
    ...targets.flatMap((target) => renderTarget(target, dryRun)),
    ...vm.map((action) => repairText(action, dryRun)),
  ];
  return lines.length === 0 ? 'nothing to repair' : lines.join('\n');
}

function renderTarget({ target, run, actions, left }: RecoveredTarget, dryRun: boolean): readonly string[] {
  const lines = [...actions.map((action) => repairText(action, dryRun)), ...left].map((line) => `  ${line}`);
  if (lines.length === 0) return [];
  const counts = run?.sealed ? 'after its point was sealed' : 'before its point was sealed';
  const forgotten = actions.every(({ kind }) => kind === 'redefine-checkpoint');
  const others = forgotten ? 'libvirt has forgotten what it needs' : 'jobs of a run into another target';
  const who = run ? `${printable(run.what)} of ${formatTime(run.startedAt)} died ${counts}` : others;
  return [`${target}: ${who}`, ...lines];
}
