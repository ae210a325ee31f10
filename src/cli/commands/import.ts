import type { Command } from 'commander';
import type { ImportResult } from '../../operations/import/import-run.js';
import { importPoints } from '../../operations/import/import.js';
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
  const { from, target, vmName, disk, digest, sha256, dryRun, breakLock } = IMPORT_OPTIONS;
  program
    .command('import')
    .description('take in backups of another tool, or points that were exported; they are not touched')
    .argument('<source...>', 'the folder that the other tool wrote; images; the archive of an export, or - for stdin')
    .addOption(optionOf(from, 'the other tool, images, or export', { value: '<kind>' }))
    .addOption(
      optionOf(target, 'a folder without any backup yet; of an export, also one that has the points before', {
        short: '-t',
        value: '<dir>',
      }),
    )
    .addOption(optionOf(vmName, 'what the VM is called, where the folder does not tell', { value: '<name>' }))
    .addOption(
      optionOf(
        disk,
        'of images: the id of their disk (libvirt: its target, such as vda); of several disks each by one of its images; repeatable',
        { value: '<id[=file]>' },
      ),
    )
    .addOption(optionOf(digest, 'do not record a digest of each file'))
    .addOption(optionOf(sha256, 'record SHA-256, which also shows what was altered on purpose; slower'))
    .addOption(optionOf(dryRun, 'say what would be made'))
    .addOption(optionOf(breakLock, 'take a lock that another host holds'))
    .addHelpText('after', EXAMPLES)
    .action((source: readonly string[], flags: Flags, command: Command) =>
      run<Flags>((_, context) => runImport(source, flags, context))(flags, command),
    );
};

const EXAMPLES = `
Every backup in the folder becomes a point; its streams are read to the end and checked, and all points are valid at
once or none. An increment whose tool may have left out areas that were zeroed (virtnbdbackup 2.21 and later) is said
to be suspect.

Images that build on one another, as external snapshots and scripts around them leave them, become a chain, each a point: in any order,
from any folder, with a base of any format. They must be at rest. Images of several disks are told apart by what they build on, and those
at the same place of their chains are one point.

Of an export only those points are taken in that the target does not have; one that goes its own way already is refused. What was cut or
damaged on its way leaves nothing. The next backup of the VM may go into the copy: it is incremental there.

Examples:
  qmpbackup import --from virtnbdbackup /backup/vm1/2026-10 --target /backup/vm1-imported --dry-run
  qmpbackup import --from virtnbdbackup /backup/vm1/2026-10 --target /backup/vm1-imported
  qmpbackup import --from images /old/base.raw /old/snap1.qcow2 /old/snap2.qcow2 --disk vda --vm-name vm1 --target /backup/vm1
  qmpbackup import --from images /old/*.qcow2 --disk vda=/old/a.qcow2 --disk vdb=/old/b.qcow2 --target /backup/vm2
  ssh host qmpbackup export --target /backup/vm --output - | qmpbackup import --from export - --target /copies/vm`;

async function runImport(source: readonly string[], flags: Flags, context: CommandContext): Promise<void> {
  const { log, signal, now } = context;
  const percent = createPercent(log);
  const result = await importPoints(
    { ...requestFrom(IMPORT_OPTIONS, flags), source },
    {
      signal,
      now,
      input: process.stdin,
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
    points.length === 0
      ? `${target} has all points of ${source} already`
      : dryRun
        ? `${source} would become ${count} of ${target}:`
        : `imported ${count} of ${source} into ${target}:`,
    table(rows),
    ...(suspect === 0
      ? []
      : [`${suspect} of the files are suspect: their points may hold old data where the guest had zeroed it`]),
  ].join('\n');
}
