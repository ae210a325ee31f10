import { merge } from '../../operations/restore/merge.js';
import { mergeDocument } from '../documents/merge.js';
import { addDiskOptions, type DiskFlags, diskFolderOf, parseBytes } from '../options.js';
import type { Register } from '../register.js';
import { createPercent } from '../render/progress.js';
import type { CommandContext } from '../wiring.js';

interface Flags extends DiskFlags {
  readonly targetfile: string;
  readonly until?: string;
  readonly rateLimit?: number;
  readonly breakLock?: boolean;
}

export const mergeCommand: Register = (program, run) => {
  const command = program
    .command('merge')
    .description('write the state of one disk as a new image; the backup is not touched');
  addDiskOptions(command)
    .requiredOption('--targetfile <file>', 'the image to make')
    .option('--until <name>', 'the file whose state is wanted; the newest one if not given')
    .option('--rate-limit <bytes>', 'bytes per second; also 20M', parseBytes)
    .option('--break-lock', 'take a lock that another host holds')
    .addHelpText(
      'after',
      '\nExamples:\n  qmpbackup merge --target /backup/vm --disk disk1 --targetfile /tmp/disk1.qcow2',
    )
    .action(run<Flags>(runMerge));
};

async function runMerge(flags: Flags, context: CommandContext): Promise<void> {
  const { log, signal } = context;
  const percent = createPercent(log);
  const result = await merge(
    {
      dir: diskFolderOf(flags),
      targetFile: flags.targetfile,
      until: flags.until,
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
            log.write('debug', `made of ${event.files.join(', ')}`);
            return;
          case 'progress':
            percent('merging', event.percent);
            return;
        }
      },
    },
  );
  log.transient('');
  const { files, targetFile } = result;
  context.done(
    () => mergeDocument(result),
    () => `merged ${files.length} ${files.length === 1 ? 'file' : 'files'} into ${targetFile}`,
    `${targetFile} is complete`,
  );
}
