import { merge } from '../../operations/restore/merge.js';
import { mergeDocument } from '../documents/merge.js';
import { MERGE_OPTIONS } from '../../operations/restore/merge-options.js';
import { addImageOptions, optionOf, requestFrom } from '../options.js';
import type { Register } from '../register.js';
import { createPercent } from '../render/progress.js';
import type { CommandContext } from '../wiring.js';

type Flags = Readonly<Record<string, unknown>>;

export const mergeCommand: Register = (program, run) => {
  const { target, disk, dir, targetFile, until, breakLock } = MERGE_OPTIONS;
  const command = program
    .command('merge')
    .description('write the state of one disk as a new image; the backup is not touched')
    .addOption(optionOf(target, 'folder of the backups', { short: '-t', value: '<dir>' }))
    .addOption(optionOf(disk, 'the disk, by its disk id', { value: '<id>' }))
    .addOption(optionOf(dir, 'instead of both: the folder of the disk, <target>/<disk id>', { value: '<diskdir>' }))
    .addOption(optionOf(targetFile, 'the image to make', { value: '<file>' }))
    .addOption(optionOf(until, 'the file whose state is wanted; the newest one if not given', { value: '<name>' }))
    .addOption(optionOf(breakLock, 'take a lock that another host holds'));
  addImageOptions(command)
    .addHelpText(
      'after',
      '\nExamples:\n  qmpbackup merge --target /backup/vm --disk disk1 --targetfile /tmp/disk1.qcow2',
    )
    .action(run<Flags>(runMerge));
};

async function runMerge(flags: Flags, context: CommandContext): Promise<void> {
  const { log, signal } = context;
  const percent = createPercent(log);
  const result = await merge(requestFrom(MERGE_OPTIONS, flags), {
    signal,
    report: (event) => {
      switch (event.kind) {
        case 'warning':
          context.warn(event);
          return;
        case 'planned':
          log.write('debug', `made of ${event.files.join(', ')}`);
          return;
        case 'progress':
          percent('merging', event.percent);
          return;
      }
    },
  });
  log.transient('');
  const { files, targetFile } = result;
  context.done(
    (warnings) => mergeDocument(result, warnings),
    () => `merged ${files.length} ${files.length === 1 ? 'file' : 'files'} into ${targetFile}`,
    `${targetFile} is complete`,
  );
}
