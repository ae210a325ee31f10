import { RESTORE_OPTIONS } from '../../operations/restore/options.js';
import type { RestoreResult } from '../../operations/restore/request.js';
import { restore } from '../../operations/restore/restore.js';
import { restoreDocument } from '../documents/restore.js';
import { addImageOptions, AT_HELP, optionOf, POINT_HELP, requestFrom } from '../options.js';
import type { Register } from '../register.js';
import { createPercent } from '../render/progress.js';
import { table } from '../render/table.js';
import { formatBytes } from '../render/units.js';
import type { CommandContext } from '../wiring.js';

type Flags = Readonly<Record<string, unknown>>;

export const restoreCommand: Register = (program, run) => {
  const { target, output, point, at, until, include, exclude, disks } = RESTORE_OPTIONS;
  const { to, overwrite, fileName, define, name, breakLock } = RESTORE_OPTIONS;
  const command = program
    .command('restore')
    .description('write all disks of a point as new images, or onto block devices; the backup is not touched')
    .addOption(optionOf(target, 'folder of the backups', { short: '-t', value: '<dir>' }))
    .addOption(
      optionOf(output, 'folder for the images and machine.json; not needed where every disk has a place by --to', {
        value: '<dir>',
      }),
    )
    .addOption(
      optionOf(point, POINT_HELP, {
        value: '<point>',
      }),
    )
    .addOption(optionOf(at, AT_HELP, { value: '<time>' }))
    .addOption(optionOf(until, 'the point that holds this file', { value: '<name>' }))
    .addOption(
      optionOf(
        include,
        'only these disks: a comma list of disk ids, devices, nodes or file names, as they were in the point',
        { short: '-i', value: '<disks>' },
      ),
    )
    .addOption(optionOf(exclude, 'all disks but these', { short: '-e', value: '<disks>' }))
    .addOption(optionOf(disks, 'only these disks: a comma list of disk ids', { value: '<ids>' }))
    .addOption(
      optionOf(
        fileName,
        'what each image is called, without its ending; {vm}, {disk} and {point} stand for their names',
        {
          value: '<template>',
        },
      ),
    )
    .addOption(
      optionOf(to, 'where a disk is restored to instead: a new image, or a block device; once for each disk', {
        value: '<disk=path>',
      }),
    )
    .addOption(optionOf(overwrite, 'what is at a place in --to may be written over: every byte of a block device'))
    .addOption(optionOf(define, 'define the domain in libvirt (--connect), with the restored disks'))
    .addOption(
      optionOf(name, 'a name for the domain beside the original; with a UUID and MAC addresses of its own', {
        value: '<name>',
      }),
    )
    .addOption(optionOf(breakLock, 'take a lock that another host holds'));
  addImageOptions(command).addHelpText('after', EXAMPLES).action(run<Flags>(runRestore));
};

const EXAMPLES = `
Examples:
  qmpbackup restore --target /backup/vm --output /var/lib/restored
  qmpbackup restore --target /backup/vm --output /var/lib/restored --point 3 --exclude disk2
  qmpbackup restore --target /backup/web1 --output /var/lib/restored --file-name '{vm}-{disk}'
  qmpbackup restore --target /backup/vm --output /var/lib/restored --at "2026-11-20 10:00"
  qmpbackup restore --target /backup/vm --disk disk1 --to disk1=/dev/vg/disk1 --overwrite
  qmpbackup restore --target /backup/vm --output /var/lib/libvirt/images/again --define --name again

Without --no-verify what was written is read again, past the page cache, and compared with the backup before the command succeeds.
A block device is written raw, with zeros behind the disk, and only when every file was proved; should it then fail, what was on it is
lost. A restore that is killed goes on when it is run again: finished disks are compared and kept.

Of a libvirt domain its definition is written beside the disks, <name>.xml, with their new paths. --define defines it too,
and refuses where a domain of that name or UUID is there. Disks that are not restored are left out of it.`;

async function runRestore(flags: Flags, context: CommandContext): Promise<void> {
  const { log, signal, globals } = context;
  const percent = createPercent(log);
  const result = await restore(requestFrom(RESTORE_OPTIONS, { ...globals, ...flags }), {
    signal,
    report: (event) => {
      switch (event.kind) {
        case 'warning':
          context.warn(event);
          return;
        case 'planned':
          log.write('info', `restoring ${event.point}: ${event.disks.map(({ disk }) => disk).join(', ')}`);
          for (const { name, reason } of event.leftOut) log.write('info', `${name}: left out, ${reason}`);
          return;
        case 'progress':
          percent(event.disk, event.percent);
          return;
      }
    },
  });
  log.transient('');
  context.done(
    (warnings) => restoreDocument(result, warnings),
    () => render(result),
    `${result.point} is restored into ${result.output ?? listed(result)}`,
  );
}

function listed({ disks }: RestoreResult): string {
  return disks.map(({ path }) => path).join(', ');
}

function render(result: RestoreResult): string {
  const { point, output, disks, machine, definition } = result;
  const rows = disks.map(({ disk, path, files, virtualSize }) => [
    `  ${disk}`,
    formatBytes(virtualSize),
    `from ${files.length} ${files.length === 1 ? 'file' : 'files'}`,
    path,
  ]);
  return [
    output === null ? `restored ${point}` : `restored ${point} into ${output}`,
    table(rows),
    ...(machine === null ? [] : [`how the machine was: ${machine}`]),
    ...(definition ? [describeDefinition(definition)] : []),
  ].join('\n');
}

function describeDefinition({ name, uuid, xml, defined }: NonNullable<RestoreResult['definition']>): string {
  return defined ? `defined the domain ${name} (${uuid}) by ${xml}` : `the definition of the domain ${name}: ${xml}`;
}
