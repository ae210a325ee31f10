import type { Command } from 'commander';
import type { ImportResult } from '../../operations/import/import-run.js';
import { importStreams } from '../../operations/import/import.js';
import { importDocument } from '../documents/import.js';
import { IMPORT_OPTIONS } from '../../operations/import/options.js';
import { optionOf, requestFrom } from '../options.js';
import type { Register } from '../register.js';
import { createPercent } from '../render/progress.js';
import { table } from '../render/table.js';
import { formatBytes, formatTime } from '../render/units.js';
import type { CommandContext } from '../wiring.js';

type Flags = Readonly<Record<string, unknown>>;

export const importCommand: Register = (program, run) => {
  const { from, target, vmName, digest, sha256, dryRun, breakLock } = IMPORT_OPTIONS;
  program
    .command('import')
    .description('turn the backups of another tool into a chain of a new target; they are not touched')
    .argument('<dir>', 'the folder that the other tool wrote')
    .addOption(optionOf(from, 'the other tool', { value: '<tool>' }))
    .addOption(optionOf(target, 'a folder for the chain, without any backup yet', { short: '-t', value: '<dir>' }))
    .addOption(optionOf(vmName, 'what the VM is called, where the folder does not tell', { value: '<name>' }))
    .addOption(optionOf(digest, 'do not record a digest of each file'))
    .addOption(optionOf(sha256, 'record SHA-256, which also shows what was altered on purpose; slower'))
    .addOption(optionOf(dryRun, 'say what would be made'))
    .addOption(optionOf(breakLock, 'take a lock that another host holds'))
    .addHelpText('after', EXAMPLES)
    .action((dir: string, flags: Flags, command: Command) =>
      run<Flags>((_, context) => runImport(dir, flags, context))(flags, command),
    );
};

const EXAMPLES = `
Every backup in the folder becomes a point; its streams are read to the end and checked, and all points are valid at
once or none. An increment whose tool may have left out areas that were zeroed (virtnbdbackup 2.21 and later) is said
to be suspect.

Examples:
  qmpbackup import --from virtnbdbackup /backup/vm1/2026-10 --target /backup/vm1-imported --dry-run
  qmpbackup import --from virtnbdbackup /backup/vm1/2026-10 --target /backup/vm1-imported`;

async function runImport(dir: string, flags: Flags, context: CommandContext): Promise<void> {
  const { log, signal, now } = context;
  const percent = createPercent(log);
  const result = await importStreams(
    { ...requestFrom(IMPORT_OPTIONS, flags), source: dir },
    {
      signal,
      now,
      report: (event) => {
        switch (event.kind) {
          case 'warning':
            context.warn(event);
            return;
          case 'importing':
            log.write('info', `importing ${event.file} (point ${event.point} of ${event.of})`);
            return;
          case 'progress':
            percent(event.file, event.percent);
            return;
        }
      },
    },
  );
  log.transient('');
  context.done(
    (warnings) => importDocument(result, warnings),
    () => render(result),
    result.dryRun ? 'nothing was changed' : `the points are sealed in ${result.target}`,
  );
}

function render({ points, source, target, dryRun }: ImportResult): string {
  const rows = points.map(({ level, number, createdAt, disks }) => [
    `  ${level === 'copy' ? 'copy' : number}`,
    formatTime(createdAt),
    level.toUpperCase(),
    disks
      .map(
        ({ disk, virtualSize, suspect }) =>
          `${disk} ${formatBytes(virtualSize)}${suspect === null ? '' : ' (suspect)'}`,
      )
      .join(', '),
  ]);
  const suspect = points.flatMap(({ disks }) => disks).filter((disk) => disk.suspect !== null).length;
  const count = `${points.length} ${points.length === 1 ? 'point' : 'points'}`;
  return [
    dryRun ? `${source} would become ${count} of ${target}:` : `imported ${count} of ${source} into ${target}:`,
    table(rows),
    ...(suspect === 0
      ? []
      : [`${suspect} of the files are suspect: their points may hold old data where the guest had zeroed it`]),
  ].join('\n');
}
