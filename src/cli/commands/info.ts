import { Option } from 'commander';
import { info } from '../../operations/info.js';
import { infoDocument } from '../documents/info.js';
import type { Register } from '../register.js';
import type { InfoTopic } from '../render/info.js';
import { renderInfo } from '../render/info.js';
import { type CommandContext, requireVm } from '../wiring.js';

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
    .addHelpText('after', EXAMPLES)
    .action(run<Flags>(runInfo));
};

const EXAMPLES = `
Examples:
  qmpbackup --socket /run/vm.qmp info --show bitmaps
  qmpbackup --domain web1 info --show jobs`;

async function runInfo(flags: Flags, context: CommandContext): Promise<void> {
  const { globals, trace } = context;
  const result = await info({ vm: requireVm(globals), breakLock: flags.breakLock ?? false, trace });
  context.answer(
    () => infoDocument(result, flags.show),
    () => renderInfo(result, flags.show, globals.domain ?? null),
  );
}
