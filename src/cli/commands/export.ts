import { exportPoints, type ExportResult } from '../../operations/export/export.js';
import { EXPORT_OPTIONS } from '../../operations/export/options.js';
import { exportDocument } from '../documents/export.js';
import { optionOf, requestFrom } from '../options.js';
import { putBytes } from '../output.js';
import type { Register } from '../register.js';
import { createPercent } from '../render/progress.js';
import { formatBytes } from '../render/units.js';
import type { CommandContext } from '../wiring.js';

type Flags = Readonly<Record<string, unknown>>;

export const exportCommand: Register = (program, run) => {
  const { target, point, since, output, breakLock } = EXPORT_OPTIONS;
  program
    .command('export')
    .description('write points as one archive, which import takes in on another host')
    .addOption(optionOf(target, 'folder of the backups', { short: '-t', value: '<dir>' }))
    .addOption(optionOf(point, 'only this point, with all that it builds on', { value: '<point>' }))
    .addOption(optionOf(since, 'only what was sealed after this point', { value: '<point>' }))
    .addOption(optionOf(output, 'the archive, which is not there yet; - is stdout', { short: '-o', value: '<file>' }))
    .addOption(optionOf(breakLock, 'take a lock that another host holds'))
    .addHelpText('after', EXAMPLES)
    .action(run<Flags>(runExport));
};

const EXAMPLES = `
The archive is a tar of the files as they are, with what the catalog says of them first and a seal last: import takes in nothing of
one that was cut. Each file is proved by its digest while it is read. Backups into the target go on meanwhile; with --output - the
answer goes to stderr.

Examples:
  qmpbackup export --target /backup/vm --output /mnt/usb/vm.tar
  qmpbackup export --target /backup/vm --output - | ssh host qmpbackup import --from export - --target /copies/vm
  qmpbackup export --target /backup/vm --since 7 --output - | ssh host qmpbackup import --from export - --target /copies/vm`;

async function runExport(flags: Flags, context: CommandContext): Promise<void> {
  const { log, signal } = context;
  const request = requestFrom(EXPORT_OPTIONS, { ...context.globals, ...flags });
  if (request.output === '-') context.stdoutIsData('--output -');
  const percent = createPercent(log);
  const result = await exportPoints(request, {
    signal,
    archive: (bytes) => putBytes(bytes, signal),
    report: (event) => {
      switch (event.kind) {
        case 'warning':
          context.warn(event);
          return;
        case 'exporting':
          log.write('debug', `exporting ${event.file}`);
          return;
        case 'progress':
          percent('export', Math.floor((event.done / Math.max(1, event.total)) * 100));
          return;
      }
    },
  });
  log.transient('');
  context.done(
    (warnings) => exportDocument(result, warnings),
    () => render(result),
    'the archive is whole',
  );
}

function render({ target, output, points, size }: ExportResult): string {
  const count = `${points.length} ${points.length === 1 ? 'point' : 'points'}`;
  return `exported ${count} of ${target} ${output === null ? '' : `into ${output} `}(${formatBytes(size)})`;
}
