import { Option } from 'commander';
import type { Register } from '../program.js';
import type { InfoTopic } from '../render/info.js';
import { type CommandContext, requireMonitor } from '../wiring.js';

interface Flags {
  readonly show: InfoTopic;
  readonly breakLock?: boolean;
}

export const infoCommand: Register = (program, run) => {
  program
    .command('info')
    .description('show what the VM has, and why a disk is left out')
    .addOption(
      new Option('--show <what>', 'block devices, dirty bitmaps or jobs')
        .choices(['blockdev', 'bitmaps', 'jobs'])
        .default('blockdev'),
    )
    .option('--break-lock', 'take a lock that another host holds')
    .addHelpText('after', '\nExamples:\n  qmpbackup --socket /run/vm.qmp info --show bitmaps')
    .action(run<Flags>(runInfo));
};

async function runInfo(flags: Flags, context: CommandContext): Promise<void> {
  const { info } = await import('../../operations/info.js');
  const { renderInfo } = await import('../render/info.js');
  const { trace } = context;
  const result = await info({ monitor: requireMonitor(context.globals), breakLock: flags.breakLock ?? false, trace });
  context.answer({ show: flags.show, ...result }, () => renderInfo(result, flags.show));
}
