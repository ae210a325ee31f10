import { doctor } from '../../operations/doctor/doctor.js';
import { hasRunAsChild } from '../child-run.js';
import { doctorDocument } from '../documents/doctor.js';
import { DOCTOR_OPTIONS } from '../../operations/doctor/options.js';
import { optionOf, requestFrom } from '../options.js';
import type { Register } from '../register.js';
import { renderFindings } from '../render/findings.js';
import type { CommandContext } from '../wiring.js';

interface Flags {
  readonly target?: string;
}

export const doctorCommand: Register = (program, run) => {
  const { target, monthly, vmName, fleeceDir, breakLock } = DOCTOR_OPTIONS;
  program
    .command('doctor')
    .description('say what would make a backup fail or be worse than expected, before it is tried; changes nothing')
    .addOption(
      optionOf(target, 'folder of the backups, also one that does not exist yet', { short: '-t', value: '<dir>' }),
    )
    .addOption(optionOf(monthly, 'the target is that of this month, <target>/<vm name>/<YYYY-MM>'))
    .addOption(optionOf(vmName, 'what to call a VM that has no name', { value: '<name>' }))
    .addOption(
      optionOf(fleeceDir, 'of a libvirt domain: where the scratch images would lie (default: beside its images)', {
        value: '<dir>',
      }),
    )
    .addOption(optionOf(breakLock, 'take a lock that another host holds'))
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
  if (flags.target !== undefined && (await hasRunAsChild(flags.target))) return;
  const request = requestFrom(DOCTOR_OPTIONS, { ...globals, ...flags });
  const result = await doctor(request, { signal, now, trace });
  context.answer(
    () => doctorDocument(result),
    () => renderFindings(result.findings),
  );
  const has = (wanted: string): boolean => result.findings.some(({ level }) => level === wanted);
  if (has('error')) context.endWith('failed');
  else if (globals.strict && has('warning')) context.endWith('warnings');
}
