import type { RebaseResult } from '../../operations/rebase/rebase.js';
import { rebase } from '../../operations/rebase/rebase.js';
import { rebaseDocument } from '../documents/rebase.js';
import { addDiskOptions, type DiskFlags, diskFolderOf, parseBytes } from '../options.js';
import type { Register } from '../register.js';
import { createPercent } from '../render/progress.js';
import type { CommandContext } from '../wiring.js';

interface Flags extends DiskFlags {
  readonly until?: string;
  readonly dryRun?: boolean;
  readonly skipCheck?: boolean;
  readonly rateLimit?: number;
  readonly breakLock?: boolean;
}

export const rebaseCommand: Register = (program, run) => {
  const command = program
    .command('rebase')
    .alias('commit')
    .description('merge FULL <- INC ... of one disk into the FULL, which then boots; safe to interrupt and run again');
  addDiskOptions(command)
    .option('--until <name>', 'the last file to merge; its chain is the one that is merged')
    .option('--dry-run', 'check all, and say what would be merged')
    .option('--skip-check', 'leave out the proof of the files, by digest and qemu-img check, and of the result')
    .option('--rate-limit <bytes>', 'bytes per second; also 20M', parseBytes)
    .option('--break-lock', 'take a lock that another host holds')
    .addHelpText('after', EXAMPLES)
    .action(run<Flags>(runRebase));
};

const EXAMPLES = `
Examples:
  qmpbackup rebase --target /backup/vm --disk disk1 --dry-run
  qmpbackup rebase --dir /backup/vm/disk1 --until INC-1480542701.qcow2`;

async function runRebase(flags: Flags, context: CommandContext): Promise<void> {
  const { log, signal } = context;
  const percent = createPercent(log);
  const result = await rebase(
    {
      dir: diskFolderOf(flags),
      until: flags.until,
      dryRun: flags.dryRun ?? false,
      skipCheck: flags.skipCheck ?? false,
      rateLimit: flags.rateLimit,
      breakLock: flags.breakLock ?? false,
    },
    {
      signal,
      report: (event) => {
        switch (event.kind) {
          case 'warning':
            log.write('warning', event.text);
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
    },
  );
  log.transient('');
  context.done(
    () => rebaseDocument(result),
    () => render(result),
    result.dryRun ? 'nothing was changed' : `what was to be merged is merged into ${result.full}`,
  );
}

function render({ full, head, merged, lost, relinked, removed, dryRun }: RebaseResult): string {
  if (merged.length === 0) {
    const done = removed.length > 0 ? `; removed ${removed.join(', ')}` : '';
    return `nothing to merge: ${full} has no increments${done}`;
  }
  const lines = dryRun
    ? [`would merge ${merged.join(', ')} into ${full}, which then is the state of ${head}`]
    : [`merged ${merged.join(', ')} into ${full}, which now is the state of ${head}`];
  const verb = dryRun ? 'would be' : 'were';
  if (lost.length > 0) lines.push(`older states of other branches ${verb} lost: ${lost.join(', ')}`);
  if (relinked.length > 0) lines.push(`${relinked.join(', ')} ${verb} linked to ${full}`);
  return lines.join('\n');
}
