import type { Command } from 'commander';
import { umount, type UmountResult } from '../../operations/mount/umount.js';
import { umountDocument } from '../documents/mount.js';
import type { Register } from '../register.js';
import type { CommandContext } from '../wiring.js';

export const umountCommand: Register = (program, run) => {
  program
    .command('umount')
    .description('end a mount, or clear what a killed one has left')
    .argument('<mountpoint>', 'the folder that `mount` was given')
    .addHelpText('after', EXAMPLES)
    .action((mountpoint: string, flags: object, command: Command) =>
      run<object>((_, context) => runUmount(mountpoint, context))(flags, command),
    );
};

const EXAMPLES = `
Ends with 0 when all that the mount has made is gone. It is for the user who has mounted.

Examples:
  qmpbackup umount /mnt/vm`;

async function runUmount(mountpoint: string, context: CommandContext): Promise<void> {
  const ended = await umount({ mountpoint }, { signal: context.signal });
  context.done(
    (warnings) => umountDocument(ended, warnings),
    () => render(ended),
    `${ended.mountpoint} is unmounted`,
  );
}

function render({ mountpoint, dead }: UmountResult): string {
  return dead ? `cleared what a dead mount had left at ${mountpoint}` : `unmounted ${mountpoint}`;
}
