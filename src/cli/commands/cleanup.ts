import { Option } from 'commander';
import type { CleanupResult } from '../../operations/cleanup.js';
import { cleanup } from '../../operations/cleanup.js';
import { cleanupDocument } from '../documents/cleanup.js';
import { CLEANUP_OPTIONS } from '../../operations/options.js';
import { optionOf, requestFrom } from '../options.js';
import type { Register } from '../register.js';
import { repairText } from '../render/repairs.js';
import type { CommandContext } from '../wiring.js';

interface Flags {
  readonly removeBitmaps?: boolean;
  readonly removeBitmap?: boolean;
}

export const cleanupCommand: Register = (program, run) => {
  const { removeBitmaps, uuid, stale, targets, images, dryRun, breakLock } = CLEANUP_OPTIONS;
  program
    .command('cleanup')
    .description(
      'remove our bitmaps (of a domain: checkpoints) from a VM, and jobs of a dead run that use them; never those of others',
    )
    .addOption(optionOf(removeBitmaps, 'remove bitmaps: all of ours, or those that the other options choose'))
    .addOption(new Option('--remove-bitmap').hideHelp())
    .addOption(optionOf(uuid, 'only bitmaps whose name holds this target or chain id', { value: '<id>' }))
    .addOption(optionOf(stale, 'only bitmaps of the targets given that none of their files needs'))
    .addOption(
      optionOf(targets, 'with --stale: a target whose needed bitmaps stay; repeatable', {
        short: '-t',
        value: '<dir>',
      }),
    )
    .addOption(
      optionOf(images, 'an image of a VM that is off, instead of --socket or --domain; repeatable', {
        value: '<file>',
      }),
    )
    .addOption(optionOf(dryRun, 'say what would be removed'))
    .addOption(optionOf(breakLock, 'take a lock that another host holds'))
    .addHelpText('after', EXAMPLES)
    .action(run<Flags>(runCleanup));
};

const EXAMPLES = `
Examples:
  qmpbackup --socket /run/vm.qmp cleanup --remove-bitmaps --stale --target /backup/vm
  qmpbackup --socket /run/vm.qmp cleanup --remove-bitmaps --dry-run
  qmpbackup --domain web1 cleanup --remove-bitmaps --stale --target /backup/web1
  qmpbackup cleanup --remove-bitmaps --image /var/lib/vm/disk1.qcow2`;

async function runCleanup(flags: Flags, context: CommandContext): Promise<void> {
  const { globals, signal, trace } = context;
  const removeBitmaps = flags.removeBitmaps ?? flags.removeBitmap;
  const result = await cleanup(requestFrom(CLEANUP_OPTIONS, { ...globals, ...flags, removeBitmaps }), {
    signal,
    trace,
    report: context.warn,
  });
  if (result.stuck.length > 0) context.endWith('partial');
  context.done(
    (warnings) => cleanupDocument(result, warnings),
    () => render(result),
    result.dryRun ? 'nothing was changed' : `${result.stuck.length > 0 ? 'a part of ' : ''}what was to go is removed`,
  );
}

function render({ bitmaps, needFull, dryRun, repairs }: CleanupResult): string {
  const removed = dryRun ? 'would be removed' : 'removed';
  const lines = [
    ...repairs.map((action) => repairText(action, dryRun)),
    ...bitmaps.map(({ where, bitmap, removed: gone, why }) =>
      gone ? `${where}: ${bitmap}: ${removed} (${why})` : `${where}: ${bitmap}: left (${why})`,
    ),
  ];
  if (needFull.length > 0) {
    lines.push(`the next backup will be full for these targets: ${needFull.join(', ')}`);
  }
  return lines.length === 0 ? 'no bitmaps' : lines.join('\n');
}
