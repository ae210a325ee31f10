import { Option } from 'commander';
import { QmpBackupError } from '../../errors.js';
import type { CleanupResult } from '../../operations/cleanup.js';
import { cleanup } from '../../operations/cleanup.js';
import { cleanupDocument } from '../documents/cleanup.js';
import { collect } from '../options.js';
import type { Register } from '../register.js';
import { repairText } from '../render/repairs.js';
import { type CommandContext, requireVm, vmOf } from '../wiring.js';

interface Flags {
  readonly removeBitmaps?: boolean;
  readonly removeBitmap?: boolean;
  readonly uuid?: string;
  readonly stale?: boolean;
  readonly target?: readonly string[];
  readonly image?: readonly string[];
  readonly dryRun?: boolean;
  readonly breakLock?: boolean;
}

export const cleanupCommand: Register = (program, run) => {
  program
    .command('cleanup')
    .description(
      'remove our bitmaps (of a domain: checkpoints) from a VM, and jobs of a dead run that use them; never those of others',
    )
    .option('--remove-bitmaps', 'remove bitmaps: all of ours, or those that the other options choose')
    .addOption(new Option('--remove-bitmap').hideHelp())
    .option('--uuid <id>', 'only bitmaps whose name holds this target or chain id')
    .option('--stale', 'only bitmaps of the targets given that none of their files needs')
    .option('-t, --target <dir>', 'with --stale: a target whose needed bitmaps stay; repeatable', collect)
    .option('--image <file>', 'an image of a VM that is off, instead of --socket or --domain; repeatable', collect)
    .option('--dry-run', 'say what would be removed')
    .option('--break-lock', 'take a lock that another host holds')
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
  if (!flags.removeBitmaps && !flags.removeBitmap) {
    throw new QmpBackupError('usage', 'cleanup was told nothing to clean up', { hint: 'Use --remove-bitmaps.' });
  }
  if (flags.target && !flags.stale) {
    throw new QmpBackupError('usage', '--target goes with --stale', {
      hint: 'With --stale the bitmaps that these targets need stay; without, all of ours go.',
    });
  }
  const images = flags.image ?? [];
  const vm = images.length > 0 ? vmOf(context.globals) : requireVm(context.globals);
  const result = await cleanup({
    vm,
    images,
    uuid: flags.uuid ?? null,
    staleTargets: flags.stale ? (flags.target ?? []) : null,
    dryRun: flags.dryRun ?? false,
    breakLock: flags.breakLock ?? false,
    trace: context.trace,
  });
  for (const { where, bitmap, why } of result.stuck) {
    context.log.write('warning', `${where}: ${bitmap} is still there: ${why}`);
  }
  if (result.stuck.length > 0) context.endWith('partial');
  context.done(
    () => cleanupDocument(result),
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
