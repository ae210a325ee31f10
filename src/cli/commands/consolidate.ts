import { POINT_FORMS } from '../../core/point-name.js';
import { consolidate } from '../../operations/consolidate/consolidate.js';
import { CONSOLIDATE_OPTIONS } from '../../operations/consolidate/options.js';
import { endsWhenTold, hasRunAsChild } from '../child-run.js';
import { consolidateDocument } from '../documents/consolidate.js';
import { optionOf, requestFrom } from '../options.js';
import type { Register } from '../register.js';
import { renderConsolidate } from '../render/consolidate.js';
import { mergeReport } from '../render/merge-report.js';
import type { CommandContext } from '../wiring.js';

interface Flags {
  readonly target: string;
}

export const consolidateCommand: Register = (program, run) => {
  const { target, monthly, vmName, keep, until, allowRemoveAll, dryRun, breakLock } = CONSOLIDATE_OPTIONS;
  program
    .command('consolidate')
    .description('merge the oldest points of a chain into a new FULL (a synthetic full); the VM is not asked')
    .addOption(
      optionOf(target, 'folder of the backups, or the one above several (--monthly)', { short: '-t', value: '<dir>' }),
    )
    .addOption(optionOf(monthly, 'the targets are those of months, <target>/<vm name>/<YYYY-MM>'))
    .addOption(optionOf(vmName, 'with --monthly: only the months of this VM', { value: '<name>' }))
    .addOption(optionOf(keep, 'so many points of the newest chain remain, the new FULL counted', { value: '<n>' }))
    .addOption(optionOf(until, `the point that becomes the FULL: ${POINT_FORMS}`, { value: '<point>' }))
    .addOption(optionOf(allowRemoveAll, 'also where it takes the last state of a disk that no later point has'))
    .addOption(optionOf(dryRun, 'say what would be merged'))
    .addOption(optionOf(breakLock, 'take a lock that another host holds'))
    .addHelpText('after', EXAMPLES)
    .action(run<Flags>(runConsolidate));
};

const EXAMPLES = `
The new files are made beside the old ones, for which there has to be space, and are proved before the catalog names them. Killed at
any moment it leaves the old chain or the new one; run again it finishes.

Examples:
  qmpbackup consolidate --target /backup/vm --keep 30
  qmpbackup consolidate --target /backup/vm --until latest~7 --dry-run`;

async function runConsolidate(flags: Flags, context: CommandContext): Promise<void> {
  const { globals, log, signal, now } = context;
  if (await hasRunAsChild(flags.target)) return;
  const run = consolidate(requestFrom(CONSOLIDATE_OPTIONS, { ...globals, ...flags }), {
    ...{ signal, now },
    report: mergeReport(context),
  });
  const result = await endsWhenTold(run, signal);
  log.transient('');
  const { chains, dryRun } = result;
  if (chains.some(({ failed }) => failed !== null)) context.endWith('partial');
  context.done(
    (warnings) => consolidateDocument(result, warnings),
    () => renderConsolidate(result, globals.verbose ?? false),
    dryRun ? 'nothing was changed' : 'what was to be merged is merged',
  );
}
