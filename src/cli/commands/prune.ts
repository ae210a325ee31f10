import { PRUNE_OPTIONS } from '../../operations/prune/options.js';
import { prune } from '../../operations/prune/prune.js';
import { endsWhenTold, hasRunAsChild } from '../child-run.js';
import { pruneDocument } from '../documents/prune.js';
import { optionOf, requestFrom } from '../options.js';
import type { Register } from '../register.js';
import { mergeReport } from '../render/merge-report.js';
import { renderPrune } from '../render/prune.js';
import type { CommandContext } from '../wiring.js';

interface Flags {
  readonly target: string;
}

export const pruneCommand: Register = (program, run) => {
  const { target, monthly, vmName, keepLast, keepHourly, keepDaily, keepWeekly, keepMonthly, keepYearly } =
    PRUNE_OPTIONS;
  const { keepWithin, keepFree, consolidate, dropDamaged, allowRemoveAll, dryRun, breakLock } = PRUNE_OPTIONS;
  const number = { value: '<n>' };
  program
    .command('prune')
    .description('drop the points that no rule keeps, and remove their files; says of each point why it is kept')
    .addOption(
      optionOf(target, 'folder of the backups, or the one above several (--monthly)', { short: '-t', value: '<dir>' }),
    )
    .addOption(optionOf(monthly, 'the targets are those of months, <target>/<vm name>/<YYYY-MM>'))
    .addOption(optionOf(vmName, 'with --monthly: only the months of this VM', { value: '<name>' }))
    .addOption(optionOf(dryRun, 'say what would go, and why the rest stays'))
    .addOption(optionOf(breakLock, 'take a lock that another host holds'))

    .optionsGroup('What is kept (what one rule keeps, stays):')
    .addOption(optionOf(keepLast, 'the newest points', number))
    .addOption(optionOf(keepHourly, 'the newest point of each of the last n hours that have one', number))
    .addOption(optionOf(keepDaily, 'of days, in local time', number))
    .addOption(optionOf(keepWeekly, 'of weeks, Monday to Sunday', number))
    .addOption(optionOf(keepMonthly, 'of months', number))
    .addOption(optionOf(keepYearly, 'of years', number))
    .addOption(
      optionOf(keepWithin, 'what is not older than this, such as 30d, counted back from the newest point', {
        value: '<time>',
      }),
    )
    .addOption(
      optionOf(keepFree, 'drop only as much, the oldest first, as is needed until so many bytes are free', {
        value: '<bytes>',
      }),
    )

    .optionsGroup('What else may go:')
    .addOption(
      optionOf(consolidate, 'points that others build on: their data is merged into the next that stays, in new files'),
    )
    .addOption(optionOf(dropDamaged, 'points that cannot be restored as a whole'))
    .addOption(optionOf(allowRemoveAll, 'the last good point of a disk'))
    .addHelpText('after', EXAMPLES)
    .action(run<Flags>(runPrune));
};

const EXAMPLES = `
Whatever the rules say, these stay: pinned points, what a kept point builds on (unless --consolidate), what the next increment builds on, and points whose
date cannot be right. Ends with 3 where --keep-free cannot be had, or one of several VMs could not be pruned.

Examples:
  qmpbackup prune --target /backup/vm --keep-daily 7 --keep-weekly 4 --keep-monthly 12 --dry-run
  qmpbackup prune --target /backup --monthly --keep-within 30d --keep-yearly 5
  qmpbackup prune --target /backup/vm --keep-hourly 24 --keep-daily 7 --consolidate
  qmpbackup prune --target /backup/vm --keep-last 3 --keep-free 200G`;

async function runPrune(flags: Flags, context: CommandContext): Promise<void> {
  const { globals, log, signal, now } = context;
  if (await hasRunAsChild(flags.target)) return;
  const run = prune(requestFrom(PRUNE_OPTIONS, { ...globals, ...flags }), {
    ...{ signal, now },
    report: mergeReport(context),
  });
  const result = await endsWhenTold(run, signal);
  log.transient('');
  const { histories, dryRun } = result;
  if (histories.some(({ missing, failed }) => missing !== null || failed !== null)) context.endWith('partial');
  context.done(
    (warnings) => pruneDocument(result, warnings),
    () => renderPrune(result, globals.verbose ?? false),
    dryRun ? 'nothing was changed' : 'what was to go is removed',
  );
}
