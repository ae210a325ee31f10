import type { Command } from 'commander';
import { asShellWord } from '../../core/shell-word.js';
import { QmpBackupError } from '../../errors.js';
import { mount, type MountResult } from '../../operations/mount/mount.js';
import { leaveVerdict } from '../../operations/mount/verdict.js';
import { MOUNT_OPTIONS } from '../../operations/mount/options.js';
import { goOnInBackground, isInBackground, leaveStarter } from '../background.js';
import { mountDocument } from '../documents/mount.js';
import { exitCodeFor } from '../exit-codes.js';
import { AT_HELP, optionOf, POINT_HELP, requestFrom } from '../options.js';
import type { Register } from '../register.js';
import { table } from '../render/table.js';
import { formatBytes } from '../render/units.js';
import type { CommandContext } from '../wiring.js';

type Flags = Readonly<Record<string, unknown>>;

export const mountCommand: Register = (program, run) => {
  const { target, point, at, disks, verify, breakLock } = MOUNT_OPTIONS;
  program
    .command('mount')
    .description('show the disks of a point as raw files, without copying them, until it is interrupted')
    .argument('<mountpoint>', 'an empty folder; one that is not there yet is made, and removed in the end')
    .addOption(optionOf(target, 'folder of the backups', { short: '-t', value: '<dir>' }))
    .addOption(
      optionOf(point, POINT_HELP, {
        value: '<point>',
      }),
    )
    .addOption(optionOf(at, AT_HELP, { value: '<time>' }))
    .addOption(optionOf(disks, 'only these disks: a comma list of disk ids', { value: '<ids>' }))
    .option('--background', 'return when the files are there, and leave them until `qmpbackup umount`')
    .addOption(optionOf(verify, 'do not prove by the digests what is read: faster where the storage is'))
    .addOption(optionOf(breakLock, 'take a lock that another host holds'))
    .addHelpText('after', EXAMPLES)
    .action((mountpoint: string, flags: Flags, command: Command) =>
      run<Flags>((_, context) => runMount(mountpoint, flags, context))(flags, command),
    );
};

const EXAMPLES = `
Each disk is a read-only file <disk>.raw, by FUSE; a user other than root needs fusermount3 (package fuse3). It ends with 0 when it is
interrupted (Ctrl-C, SIGTERM), by \`qmpbackup umount\`, or when all of its files have been unmounted; all that it has made is gone then.
Backups into the target go on meanwhile; a rebase of these files is refused.
What is read is proved: where it is damaged that is said at once, and it ends with 4.

Examples:
  qmpbackup mount --target /backup/vm /mnt/vm
  qmpbackup mount --target /backup/vm --point 3 --disk disk1 --background /mnt/vm
  losetup --read-only --partscan --find --show /mnt/vm/disk1.raw     (mounted as root: its partitions as /dev/loopNpM)
  guestmount --add /mnt/vm/disk1.raw --format=raw --ro -i /mnt/guest (its file systems, without root)
  qmpbackup umount /mnt/vm`;

async function runMount(mountpoint: string, flags: Flags, context: CommandContext): Promise<void> {
  const background = flags['background'] === true;
  if (background && !isInBackground()) {
    process.exitCode = await goOnInBackground();
    return;
  }
  const answered: Promise<void>[] = [];
  const mounting = mount(
    { ...requestFrom(MOUNT_OPTIONS, { ...context.globals, ...flags }), mountpoint },
    {
      signal: context.signal,
      trace: context.trace,
      report: (event) => {
        if (event.kind === 'warning') {
          context.warn(event);
          return;
        }
        answer(event.mounted, background, context);
        if (!background) return;
        const ending = context.ending();
        answered.push(leaveStarter(ending === undefined ? 0 : exitCodeFor(ending)));
      },
    },
  );
  await mounting.catch(async (error: unknown) => {
    const isHeard = !background || answered.length === 0;
    if (!isHeard && error instanceof QmpBackupError && error.code === 'damaged') await leaveVerdict(error.message);
    throw error;
  });
  await Promise.all(answered);
}

function answer(mounted: MountResult, background: boolean, context: CommandContext): void {
  const until = background ? `\`qmpbackup umount ${asShellWord(mounted.mountpoint)}\`` : 'it is interrupted (Ctrl-C)';
  const isTold = context.answer(
    (warnings) => mountDocument(mounted, warnings),
    () => render(mounted),
  );
  if (isTold) context.log.write('info', `mounted until ${until}`);
  else throw new QmpBackupError('failed', 'nobody can be told where it is mounted', { hint: 'See where stdout goes.' });
}

function render({ point, mountpoint, disks }: MountResult): string {
  const rows = disks.map(({ disk, virtualSize, path }) => [`  ${disk}`, formatBytes(virtualSize), path]);
  const first = asShellWord(disks[0]?.path ?? '');
  // What one user has mounted nobody else may read, root neither.
  const forRoot =
    process.getuid?.() === 0
      ? ''
      : ', for root alone, who may read these files where /etc/fuse.conf has user_allow_other';
  return [
    `mounted ${point} at ${mountpoint}`,
    table(rows),
    `partitions${forRoot}: losetup --read-only --partscan --find --show ${first}`,
    `file systems: guestmount --add ${first} --format=raw --ro -i DIR; single files: qmpbackup files`,
  ].join('\n');
}
