import { Option } from 'commander';
import { info } from '../../operations/info.js';
import { INFO_OPTIONS } from '../../operations/options.js';
import { infoDocument } from '../documents/info.js';
import { optionOf, requestFrom } from '../options.js';
import type { Register } from '../register.js';
import type { InfoTopic } from '../render/info.js';
import { renderInfo } from '../render/info.js';
import type { CommandContext } from '../wiring.js';

interface Flags {
  readonly show: InfoTopic;
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
    .addOption(optionOf(INFO_OPTIONS.breakLock, 'take a lock that another host holds'))
    .addHelpText('after', EXAMPLES)
    .action(run<Flags>(runInfo));
};

const EXAMPLES = `
Examples:
  qmpbackup --socket /run/vm.qmp info --show bitmaps
  qmpbackup --domain web1 info --show jobs`;

async function runInfo(flags: Flags, context: CommandContext): Promise<void> {
  const { globals, trace } = context;
  const result = await info(requestFrom(INFO_OPTIONS, { ...globals, ...flags }), { trace });
  context.answer(
    () => infoDocument(result, flags.show),
    () => renderInfo(result, flags.show, globals.domain ?? null),
  );
}
