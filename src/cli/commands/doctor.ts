import { format } from 'date-fns/format';
import { QmpBackupError } from '../../errors.js';
import { doctor } from '../../operations/doctor/doctor.js';
import { hasRunAsChild } from '../child-run.js';
import { doctorDocument } from '../documents/doctor.js';
import type { Register } from '../register.js';
import { renderFindings } from '../render/findings.js';
import { agentOf, type CommandContext, vmOf } from '../wiring.js';

interface Flags {
  readonly target?: string;
  readonly monthly?: boolean;
  readonly vmName?: string;
  readonly fleeceDir?: string;
  readonly breakLock?: boolean;
}

export const doctorCommand: Register = (program, run) => {
  program
    .command('doctor')
    .description('say what would make a backup fail or be worse than expected, before it is tried; changes nothing')
    .option('-t, --target <dir>', 'folder of the backups, also one that does not exist yet')
    .option('--monthly', 'the target is that of this month, <target>/<vm name>/<YYYY-MM>')
    .option('--vm-name <name>', 'what to call a VM that has no name')
    .option(
      '--fleece-dir <dir>',
      'of a libvirt domain: where the scratch images would lie (default: beside its images)',
    )
    .option('--break-lock', 'take a lock that another host holds')
    .addHelpText('after', EXAMPLES)
    .action(run<Flags>(runDoctor));
};

const EXAMPLES = `
Ends with 0 when there is no error among the findings, else with 1. QEMU opens an empty file in the target to show that
it can (not that of a libvirt domain: there this program writes the files); the guest is never frozen.

Examples:
  qmpbackup --socket /run/vm.qmp doctor
  qmpbackup --socket /run/vm.qmp --agent-socket /run/vm.qga doctor --monthly --target /backup
  qmpbackup --domain web1 doctor --target /backup/web1 --fleece-dir /var/tmp
  qmpbackup --json --socket /run/vm.qmp doctor --target /backup/vm`;

async function runDoctor(flags: Flags, context: CommandContext): Promise<void> {
  const { globals, signal, now, trace } = context;
  const vm = vmOf(globals);
  if (!vm && flags.target === undefined) {
    throw new QmpBackupError('usage', 'doctor was given nothing to look at', {
      hint: 'Name the VM (--socket PATH or --domain NAME), a target (--target DIR), or both.',
    });
  }
  if (flags.target !== undefined && (await hasRunAsChild(flags.target))) return;
  const result = await doctor(
    {
      vm,
      agent: agentOf(globals),
      target: flags.target ?? null,
      monthly: flags.monthly ?? false,
      label: flags.vmName ?? null,
      fleeceDir: flags.fleeceDir ?? null,
      breakLock: flags.breakLock ?? false,
      trace,
    },
    { signal, now, month: () => format(now(), 'yyyy-MM') },
  );
  context.answer(
    () => doctorDocument(result),
    () => renderFindings(result.findings),
  );
  if (result.findings.some(({ level }) => level === 'error')) context.endWith('failed');
}
