import { QmpBackupError } from '../../errors.js';
import { SERVE_OPTIONS } from '../../operations/serve/options.js';
import { serve, type ServeResult } from '../../operations/serve/serve.js';
import { serveDocument } from '../documents/serve.js';
import { AT_HELP, optionOf, POINT_HELP, requestFrom } from '../options.js';
import type { Register } from '../register.js';
import { table } from '../render/table.js';
import { formatBytes } from '../render/units.js';
import type { CommandContext } from '../wiring.js';

type Flags = Readonly<Record<string, unknown>>;

export const serveCommand: Register = (program, run) => {
  const { target, point, at, disks, port, overlay, verify, breakLock } = SERVE_OPTIONS;
  program
    .command('serve')
    .description('let programs read the disks of a point over NBD, without copying them, until it is interrupted')
    .addOption(optionOf(target, 'folder of the backups', { short: '-t', value: '<dir>' }))
    .addOption(
      optionOf(point, POINT_HELP, {
        value: '<point>',
      }),
    )
    .addOption(optionOf(at, AT_HELP, { value: '<time>' }))
    .addOption(optionOf(disks, 'only these disks: a comma list of disk ids', { value: '<ids>' }))
    .addOption(
      optionOf(port, 'a TCP port of 127.0.0.1, open to every user of this host; else a socket for this user alone', {
        value: '<port>',
      }),
    )
    .addOption(
      optionOf(overlay, 'take writes, too, into images in this folder, which are kept; the backup stays as it is', {
        value: '<dir>',
      }),
    )
    .addOption(optionOf(verify, 'do not prove by the digests what is read: faster where the storage is'))
    .addOption(optionOf(breakLock, 'take a lock that another host holds'))
    .addHelpText('after', EXAMPLES)
    .action(run<Flags>(runServe));
};

const EXAMPLES = `
Prints the NBD URI of each disk when clients are welcome, and ends with 0 when it is interrupted (Ctrl-C, SIGTERM); all that it has
made is gone then, but for overlays. Backups into the target go on meanwhile; a rebase of these files is refused.
What is read is proved: where it is damaged that is said at once, and it ends with 4.

Examples:
  qmpbackup serve --target /backup/vm
  qmpbackup serve --target /backup/vm --point 3 --disk disk1 --port 10809
  qmpbackup serve --target /backup/vm --overlay /var/lib/trial`;

async function runServe(flags: Flags, context: CommandContext): Promise<void> {
  await serve(requestFrom(SERVE_OPTIONS, { ...context.globals, ...flags }), {
    signal: context.signal,
    trace: context.trace,
    report: (event) => {
      if (event.kind === 'warning') context.warn(event);
      else answer(event.serving, context);
    },
  });
}

function answer(serving: ServeResult, context: CommandContext): void {
  const isTold = context.answer(
    (warnings) => serveDocument(serving, warnings),
    () => render(serving),
  );
  if (isTold) context.log.write('info', 'serving until it is interrupted (Ctrl-C)');
  else throw new QmpBackupError('failed', 'nobody can be told where it is served', { hint: 'See where stdout goes.' });
}

function render({ point, disks }: ServeResult): string {
  const rows = disks.map(({ disk, virtualSize, uri }) => [`  ${disk}`, formatBytes(virtualSize), uri]);
  const overlays = disks.flatMap(({ disk, overlay }) => (overlay === null ? [] : [`writes to ${disk}: ${overlay}`]));
  return [`serving ${point}`, table(rows), ...overlays].join('\n');
}
