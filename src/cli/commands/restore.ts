import { DEFAULT_FILE_NAME } from '../../core/restored-names.js';
import type { RestoreResult } from '../../operations/restore/request.js';
import { restore } from '../../operations/restore/restore.js';
import { restoreDocument } from '../documents/restore.js';
import { parseBytes, parseList } from '../options.js';
import type { Register } from '../register.js';
import { createPercent } from '../render/progress.js';
import { table } from '../render/table.js';
import { formatBytes } from '../render/units.js';
import type { CommandContext } from '../wiring.js';

interface Flags {
  readonly target: string;
  readonly output: string;
  readonly point?: string;
  readonly until?: string;
  readonly disk?: readonly string[];
  readonly include?: readonly string[];
  readonly exclude?: readonly string[];
  readonly fileName: string;
  readonly rateLimit?: number;
  readonly breakLock?: boolean;
  readonly define?: boolean;
  readonly name?: string;
}

export const restoreCommand: Register = (program, run) => {
  program
    .command('restore')
    .description('write all disks of a point as new images; the backup is not touched')
    .requiredOption('-t, --target <dir>', 'folder of the backups')
    .requiredOption('--output <dir>', 'folder for the images and machine.json')
    .option('--point <point>', 'N of the newest chain, CHAIN:N, or a point id; the newest one if not given')
    .option('--until <name>', 'the point that holds this file')
    .option(
      '-i, --include <disks>',
      'only these disks: a comma list of disk ids, devices, nodes or file names, as they were in the point',
      parseList,
    )
    .option('-e, --exclude <disks>', 'all disks but these', parseList)
    .option('--disk <ids>', 'only these disks: a comma list of disk ids', parseList)
    .option(
      '--file-name <template>',
      'what each image is called, without .qcow2; {vm}, {disk} and {point} stand for their names',
      DEFAULT_FILE_NAME,
    )
    .option('--rate-limit <bytes>', 'bytes per second; also 20M', parseBytes)
    .option('--define', 'define the domain in libvirt (--connect), with the restored disks')
    .option('--name <name>', 'a name for the domain beside the original; with a UUID and MAC addresses of its own')
    .option('--break-lock', 'take a lock that another host holds')
    .addHelpText('after', EXAMPLES)
    .action(run<Flags>(runRestore));
};

const EXAMPLES = `
Examples:
  qmpbackup restore --target /backup/vm --output /var/lib/restored
  qmpbackup restore --target /backup/vm --output /var/lib/restored --point 3 --exclude disk2
  qmpbackup restore --target /backup/web1 --output /var/lib/restored --file-name '{vm}-{disk}'
  qmpbackup restore --target /backup/vm --output /var/lib/restored --until INC-1480542701.qcow2
  qmpbackup restore --target /backup/vm --output /var/lib/libvirt/images/again --define --name again

Of a libvirt domain its definition is written beside the disks, <name>.xml, with their new paths. --define defines it too,
and refuses where a domain of that name or UUID is there. Disks that are not restored are left out of it.`;

async function runRestore(flags: Flags, context: CommandContext): Promise<void> {
  const { log, signal, globals } = context;
  const percent = createPercent(log);
  const result = await restore(
    {
      target: flags.target,
      output: flags.output,
      point: flags.point,
      until: flags.until,
      disks: flags.disk,
      include: flags.include,
      exclude: flags.exclude,
      fileName: flags.fileName,
      rateLimit: flags.rateLimit,
      breakLock: flags.breakLock ?? false,
      definition: {
        define: flags.define ?? false,
        name: flags.name ?? null,
        connect: globals.connect ?? null,
      },
    },
    {
      signal,
      report: (event) => {
        switch (event.kind) {
          case 'warning':
            log.write('warning', event.text);
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
    },
  );
  log.transient('');
  context.done(
    () => restoreDocument(result),
    () => render(result),
    `${result.point} is restored into ${result.output}`,
  );
}

function render({ point, output, disks, machine, definition }: RestoreResult): string {
  const rows = disks.map(({ disk, path, files, virtualSize }) => [
    `  ${disk}`,
    formatBytes(virtualSize),
    `from ${files.length} ${files.length === 1 ? 'file' : 'files'}`,
    path,
  ]);
  return [
    `restored ${point} into ${output}`,
    table(rows),
    `how the machine was: ${machine}`,
    ...(definition ? [describeDefinition(definition)] : []),
  ].join('\n');
}

function describeDefinition({ name, uuid, xml, defined }: NonNullable<RestoreResult['definition']>): string {
  return defined ? `defined the domain ${name} (${uuid}) by ${xml}` : `the definition of the domain ${name}: ${xml}`;
}
