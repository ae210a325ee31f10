import {
  CONSOLIDATE_SOURCE_OPTIONS,
  consolidateSource,
  type ConsolidateSourceResult,
} from '../../operations/consolidate-source.js';
import { consolidateSourceDocument } from '../documents/consolidate-source.js';
import { optionOf, requestFrom } from '../options.js';
import type { Register } from '../register.js';
import { repairText } from '../render/repairs.js';
import type { CommandContext } from '../wiring.js';

export const consolidateSourceCommand: Register = (program, run) => {
  const { adopt, dryRun, breakLock } = CONSOLIDATE_SOURCE_OPTIONS;
  program
    .command('consolidate-source')
    .description('take the overlays of `backup --method overlay` out of the disks of a running libvirt domain')
    .addOption(
      optionOf(
        adopt,
        'overlays of other programs, too: commit merges all into the lowest image, pull into the uppermost',
        { value: '<how>' },
      ),
    )
    .addOption(optionOf(dryRun, 'say what would be merged'))
    .addOption(optionOf(breakLock, 'take a lock that another host holds'))
    .addHelpText('after', EXAMPLES)
    .action(run<object>(runConsolidateSource));
};

const EXAMPLES = `
The guest runs on meanwhile. The next backup by --track overlay is full.

Examples:
  qmpbackup --domain web1 consolidate-source
  qmpbackup --domain web1 consolidate-source --adopt commit --dry-run`;

async function runConsolidateSource(flags: object, context: CommandContext): Promise<void> {
  const { globals, signal, trace } = context;
  const result = await consolidateSource(requestFrom(CONSOLIDATE_SOURCE_OPTIONS, { ...globals, ...flags }), {
    signal,
    trace,
    report: context.warn,
  });
  context.done(
    (warnings) => consolidateSourceDocument(result, warnings),
    () => render(result),
    result.dryRun ? 'nothing was changed' : 'each disk is on its own image',
  );
}

function render({ disks, repairs, dryRun }: ConsolidateSourceResult): string {
  const is = dryRun ? 'would be' : 'is';
  const lines = [
    ...repairs.map((action) => repairText(action, dryRun)),
    ...disks.map(({ target, image, removed, left }) => {
      const merged = [...removed, ...left].join(', ');
      return `${target} ${is} on ${image} alone; merged: ${merged === '' ? 'nothing' : merged}`;
    }),
  ];
  return lines.length === 0 ? 'no overlays' : lines.join('\n');
}
