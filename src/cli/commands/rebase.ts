import type { RebaseResult } from '../../operations/rebase/rebase.js';
import { rebase } from '../../operations/rebase/rebase.js';
import { endsWhenTold, hasRunAsChild } from '../child-run.js';
import { rebaseDocument } from '../documents/rebase.js';
import { REBASE_OPTIONS } from '../../operations/rebase/options.js';
import { optionOf, requestFrom } from '../options.js';
import type { Register } from '../register.js';
import { createPercent } from '../render/progress.js';
import { formatNames } from '../render/units.js';
import type { CommandContext } from '../wiring.js';

interface Flags {
  readonly dir?: string;
  readonly target?: string;
}

export const rebaseCommand: Register = (program, run) => {
  const { target, disk, dir, until, dryRun, skipCheck, rateLimit, breakLock } = REBASE_OPTIONS;
  program
    .command('rebase')
    .alias('commit')
    .description('merge FULL <- INC ... of one disk into the FULL, which then boots; safe to interrupt and run again')
    .addOption(optionOf(target, 'folder of the backups', { short: '-t', value: '<dir>' }))
    .addOption(optionOf(disk, 'the disk, by its disk id', { value: '<id>' }))
    .addOption(optionOf(dir, 'instead of both: the folder of the disk, <target>/<disk id>', { value: '<diskdir>' }))
    .addOption(optionOf(until, 'the last file to merge; its chain is the one that is merged', { value: '<name>' }))
    .addOption(optionOf(dryRun, 'check all, and say what would be merged'))
    .addOption(optionOf(skipCheck, 'leave out the proof of the files, by digest and qemu-img check, and of the result'))
    .addOption(optionOf(rateLimit, 'bytes per second; also 20M', { value: '<bytes>' }))
    .addOption(optionOf(breakLock, 'take a lock that another host holds'))
    .addHelpText('after', EXAMPLES)
    .action(run<Flags>(runRebase));
};

const EXAMPLES = `
Examples:
  qmpbackup rebase --target /backup/vm --disk disk1 --dry-run
  qmpbackup rebase --dir /backup/vm/disk1 --until INC-1480542701.qcow2`;

async function runRebase(flags: Flags, context: CommandContext): Promise<void> {
  const { log, signal } = context;
  const folder = flags.dir ?? flags.target;
  if (folder !== undefined && (await hasRunAsChild(folder))) return;
  const percent = createPercent(log);
  const run = rebase(requestFrom(REBASE_OPTIONS, { ...flags }), {
    signal,
    report: (event) => {
      switch (event.kind) {
        case 'warning':
          context.warn(event);
          return;
        case 'planned':
          if (event.plan.resumes) log.write('info', 'an earlier rebase was interrupted: finishing it');
          return;
        case 'checking':
          log.write('debug', `checking ${event.file}`);
          return;
        case 'repaired-leaks':
          log.write('info', `${event.file}: ${event.count} leaked clusters given back`);
          return;
        case 'progress':
          percent(event.step, event.percent);
          return;
        case 'hashing':
          log.write('debug', `hashing ${event.file}`);
          return;
        case 'relinked':
          log.write('info', `${event.file} builds on ${event.parent} now`);
          return;
        case 'removed':
          for (const file of event.files) log.write('debug', `removed ${file}`);
          return;
      }
    },
  });
  const result = await endsWhenTold(run, signal);
  log.transient('');
  context.done(
    (warnings) => rebaseDocument(result, warnings),
    () => render(result),
    result.dryRun ? 'nothing was changed' : `what was to be merged is merged into ${result.full}`,
  );
}

function render({ full, head, merged, lost, relinked, removed, dryRun }: RebaseResult): string {
  if (merged.length === 0) {
    const done = removed.length > 0 ? `; removed ${formatNames(removed)}` : '';
    return `nothing to merge: ${full} has no increments${done}`;
  }
  const lines = dryRun
    ? [`would merge ${formatNames(merged)} into ${full}, which then is the state of ${head}`]
    : [`merged ${formatNames(merged)} into ${full}, which now is the state of ${head}`];
  const verb = dryRun ? 'would be' : 'were';
  if (lost.length > 0) lines.push(`older states of other branches ${verb} lost: ${formatNames(lost)}`);
  if (relinked.length > 0) lines.push(`${formatNames(relinked)} ${verb} linked to ${full}`);
  return lines.join('\n');
}
