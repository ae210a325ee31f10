import type { Command, Option } from 'commander';
import { QmpBackupError } from '../../errors.js';
import type { FilesEvent } from '../../operations/files/begin.js';
import { filesFind } from '../../operations/files/find.js';
import { filesGet, type FilesGetResult } from '../../operations/files/get.js';
import { filesLs } from '../../operations/files/ls.js';
import { FILES_FIND_OPTIONS, FILES_GET_OPTIONS, FILES_LS_OPTIONS } from '../../operations/files/options.js';
import { filesFindDocument, filesGetDocument, filesLsDocument } from '../documents/files.js';
import { AT_HELP, optionOf, POINT_HELP, requestFrom } from '../options.js';
import { putBytes } from '../output.js';
import type { Register } from '../register.js';
import { renderFound, renderListed } from '../render/files.js';
import type { CommandContext } from '../wiring.js';

type Flags = Readonly<Record<string, unknown>>;

export const filesCommand: Register = (program, run) => {
  const files = program
    .command('files')
    .description("look for and fetch single files of a guest's file systems")
    .addHelpText('after', EXAMPLES);
  withCommon(files.command('ls'))
    .description('what file systems there are, or what is in a folder')
    .argument('[path]', 'absolute, as the guest has it')
    .action((path: string | undefined, flags: Flags, command: Command) =>
      run<Flags>((_, context) => runLs(path, flags, context))(flags, command),
    );
  withCommon(files.command('get'))
    .description('fetch files, links, and folders with all that is in them')
    .argument('<path...>', 'absolute, as the guest has it')
    .addOption(
      optionOf(FILES_GET_OPTIONS.output, 'the folder that they are written to, each under its own name', {
        short: '-o',
        value: '<dir>',
      }),
    )
    .addOption(optionOf(FILES_GET_OPTIONS.tar, 'a tar archive on stdout instead'))
    .action((paths: readonly string[], flags: Flags, command: Command) =>
      run<Flags>((_, context) => runGet(paths, flags, context))(flags, command),
    );
  withCommon(files.command('find'))
    .description('in which points of the newest chain files of a name were changed')
    .argument('[path]', 'only below this folder')
    .addOption(optionOf(FILES_FIND_OPTIONS.name, 'a name, with * and ?', { value: '<glob>' }))
    .action((path: string | undefined, flags: Flags, command: Command) =>
      run<Flags>((_, context) => runFind(path, flags, context))(flags, command),
    );
};

function withCommon(command: Command): Command {
  const { target, point, at, disks, partition, reader, verify, breakLock } = FILES_LS_OPTIONS;
  const options: readonly Option[] = [
    optionOf(target, 'folder of the backups', { short: '-t', value: '<dir>' }),
    optionOf(point, POINT_HELP, { value: '<point>' }),
    optionOf(at, AT_HELP, { value: '<time>' }),
    optionOf(disks, 'only on these disks: a comma list of disk ids', { value: '<ids>' }),
    optionOf(partition, 'number of the partition, `whole`, or /dev/vg/lv, where a path is on several', {
      value: '<name>',
    }),
    optionOf(reader, 'what reads the file systems', { value: '<name>' }),
    optionOf(verify, 'do not prove by the digests what is read'),
    optionOf(breakLock, 'take a lock that another host holds'),
  ];
  for (const option of options) command.addOption(option);
  return command.addHelpText('after', EXAMPLES);
}

const EXAMPLES = `
Nothing of the guest is mounted by this host, and no root is needed. ext2 to 4, NTFS and FAT on partitions are read at once (package
sleuthkit, and fuse3 for others than root); LVM, xfs and btrfs by libguestfs (package libguestfs-tools), which starts a small VM for each command: a minute
or two where there is no KVM. Links are not followed. What cannot be read to its end is an error,
and what was read from a damaged part of the backup is not answered (exit code 4).

Examples:
  qmpbackup files ls --target /backup/vm
  qmpbackup files ls --target /backup/vm --point 3 /etc
  qmpbackup files get --target /backup/vm --output /tmp/got /etc/fstab /home/ann
  qmpbackup files get --target /backup/vm --tar --partition /dev/vg0/data / | tar -tv
  qmpbackup files find --target /backup/vm --name '*.conf' /etc`;

const SLOW = 'starting the appliance of libguestfs, which takes a minute or two where there is no KVM';

function reporter(context: CommandContext): (event: FilesEvent) => void {
  return (event) => {
    if (event.kind === 'warning') context.warn(event);
    else if (event.kind === 'slow') context.log.write('info', SLOW);
    else context.log.write('debug', `got ${event.path}`);
  };
}

async function runLs(path: string | undefined, flags: Flags, context: CommandContext): Promise<void> {
  const request = { ...requestFrom(FILES_LS_OPTIONS, { ...context.globals, ...flags }), path };
  const listed = await filesLs(request, { signal: context.signal, report: reporter(context) });
  context.answer(
    (warnings) => filesLsDocument(listed, warnings),
    () => renderListed(listed),
  );
}

async function runGet(paths: readonly string[], flags: Flags, context: CommandContext): Promise<void> {
  const request = { ...requestFrom(FILES_GET_OPTIONS, { ...context.globals, ...flags }), paths };
  if (request.tar) refuseStdout(context);
  const got = await filesGet(request, { signal: context.signal, report: reporter(context), archive: putBytes });
  if (got.leftOut.length > 0) context.endWith('partial');
  if (got.output === null) {
    context.log.write('info', `wrote ${countOf(got)} of ${got.point} to the archive`);
    return;
  }
  context.done(
    (warnings) => filesGetDocument(got, warnings),
    () => `got ${countOf(got)} of ${got.point} into ${got.output}`,
    'the files are written',
  );
}

function countOf({ files }: FilesGetResult): string {
  return files.length === 1 ? '1 file' : `${files.length} files, folders and links`;
}

function refuseStdout({ globals }: CommandContext): void {
  const json = globals.json !== undefined;
  if (!json && !process.stdout.isTTY) return;
  throw new QmpBackupError(
    'usage',
    json ? '--json and --tar both want stdout' : '--tar writes an archive, and stdout is a terminal',
    {
      hint: json ? 'Leave one of them out.' : 'Send it to a file or to tar: … --tar PATH >archive.tar',
    },
  );
}

async function runFind(path: string | undefined, flags: Flags, context: CommandContext): Promise<void> {
  const request = { ...requestFrom(FILES_FIND_OPTIONS, { ...context.globals, ...flags }), path };
  const found = await filesFind(request, { signal: context.signal, report: reporter(context) });
  if (found.skipped.some(({ damaged }) => damaged)) context.endWith('damaged');
  else if (found.leftOut.length > 0 || found.skipped.length > 0) context.endWith('partial');
  context.answer(
    (warnings) => filesFindDocument(found, warnings),
    () => renderFound(found),
  );
}
