import { POINT_FORMS } from '../../core/point-name.js';
import { printable } from '../../core/printable.js';
import { asShellWord } from '../../core/shell-word.js';
import { boot } from '../../operations/boot/boot.js';
import { BOOT_OPTIONS } from '../../operations/boot/options.js';
import type { BootResult } from '../../operations/boot/request.js';
import { bootDocument } from '../documents/boot.js';
import { AT_HELP, optionOf, requestFrom } from '../options.js';
import type { Register } from '../register.js';
import { createProgress } from '../render/progress.js';
import { table } from '../render/table.js';
import type { CommandContext } from '../wiring.js';

type Flags = Readonly<Record<string, unknown>>;

export const bootCommand: Register = (program, run) => {
  const { target, point, at, to, name, network, agent, stream, rateLimit, breakLock } = BOOT_OPTIONS;
  const command = program
    .command('boot')
    .description('start the VM of a point at once, from the backup, with overlays that take what it writes')
    .argument('[qemu...]', 'after --: more arguments for QEMU, which come last')
    .addOption(optionOf(target, 'folder of the backups', { short: '-t', value: '<dir>' }))
    .addOption(
      optionOf(point, `${POINT_FORMS}; else that of the overlays, else the newest`, {
        value: '<point>',
      }),
    )
    .addOption(optionOf(at, AT_HELP, { value: '<time>' }))
    .addOption(optionOf(to, 'folder of the overlays, which are kept; it will be made', { value: '<dir>' }))
    .addOption(
      optionOf(name, 'of a libvirt domain: define it under this name, beside the original (--connect)', {
        value: '<name>',
      }),
    )
    .addOption(
      optionOf(network, 'what its network cards are connected to: nothing, or what they were', { value: '<what>' }),
    )
    .addOption(optionOf(agent, 'a channel for the guest agent although it had none'))
    .addOption(optionOf(stream, 'copy the rest into the overlays while it runs, until it needs the backup no more'))
    .addOption(optionOf(rateLimit, 'bytes per second that are copied so; also 20M', { value: '<bytes>' }))
    .addOption(optionOf(breakLock, 'take a lock that another host holds'))
    .addHelpText('after', EXAMPLES);
  command.action((_words: readonly string[], flags: Flags) =>
    run<Flags>((given, context) => runBoot({ ...given, arguments: command.args }, context))(flags, command),
  );
};

const EXAMPLES = `
Ends when the VM runs (with --stream: when it needs the backup no more); the VM is a process of its own and runs on. Run again
with the same --to it finds the VM, or starts it again from its overlays. Until it leans on the backup no more, or has ended, a
rebase of these files is refused; backups go on. The guest's first serial port goes to serial.log in that folder.

A point of a libvirt domain is defined and started by libvirt, with the links of its network cards down unless --network
as-recorded. While a domain of its name or UUID is there, it needs --name.

Examples:
  qmpbackup boot --target /backup/vm --to /var/lib/recovered
  qmpbackup boot --target /backup/vm --to /var/lib/recovered --stream --rate-limit 50M
  qmpbackup boot --target /backup/web1 --to /var/lib/libvirt/trial --name web1-trial
  qmpbackup boot --target /backup/vm --point 3 --to /tmp/trial -- -vnc :1 -nic user,model=virtio-net-pci`;

/** Milliseconds between two lines of progress where there is no terminal. */
const INTERVAL_MS = 30_000;

async function runBoot(flags: Flags, context: CommandContext): Promise<void> {
  const { log, signal, globals, now, trace } = context;
  const progress = createProgress(log, INTERVAL_MS, globals.quiet ?? false);
  let shown = -Infinity;
  const asked = { ...requestFrom(BOOT_OPTIONS, { ...globals, ...flags }), arguments: flags.arguments as string[] };
  const result = await boot(asked, {
    ...{ signal, now, trace },
    report: (event) => {
      switch (event.kind) {
        case 'warning':
          context.warn(event);
          return;
        case 'differs':
          log.write('info', printable(event.what));
          return;
        case 'running':
          log.write(
            'info',
            `the VM ${event.again ? 'runs already' : 'runs'}, ${calledAs(event.as)} (${inSeconds(event.afterMs)})`,
          );
          return;
        case 'streaming':
          if (performance.now() - shown < progress.pollMs && event.done < event.total) return;
          shown = performance.now();
          progress.show([event]);
          return;
      }
    },
  });
  progress.end();
  context.done(
    (warnings) => bootDocument(result, warnings),
    () => render(result),
    'the VM runs',
  );
}

function calledAs(as: number | string): string {
  return typeof as === 'number' ? `pid ${as}` : `the domain ${as}`;
}

function inSeconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}

function render({ point, state, pid, domain, command, script, monitor, agent, disks }: BootResult): string {
  const rows = disks.map(({ disk, overlay, leans }) => [
    `  ${disk}`,
    overlay,
    leans ? 'leans on the backup' : 'stands alone',
  ]);
  return [
    `${state === 'started' ? 'started' : 'running already:'} ${printable(point)}, ${calledAs(domain?.name ?? pid ?? 0)}`,
    table(rows),
    ...(monitor === null ? [] : [`monitor: ${monitor}`]),
    ...(agent === null ? [] : [`guest agent: ${agent}`]),
    ...(script === null ? [] : [`script: ${script}`]),
    ...(command === null ? [] : [printable(command.map(asShellWord).join(' '))]),
  ].join('\n');
}
