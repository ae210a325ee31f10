import { Option } from 'commander';
import { BACKUP_OPTIONS } from '../../backends/backup-options.js';
import { QmpBackupError } from '../../errors.js';
import { backup } from '../../operations/backup/backup.js';
import { hasRunAsChild } from '../child-run.js';
import { backupDocument } from '../documents/backup.js';
import { optionOf, requestFrom } from '../options.js';
import { putBytes } from '../output.js';
import type { Register } from '../register.js';
import { fleecingText, renderBackup } from '../render/backup.js';
import { createProgress } from '../render/progress.js';
import type { CommandContext } from '../wiring.js';

interface Flags {
  readonly target?: string;
  readonly output?: string;
  readonly quiesce?: boolean | string;
  readonly quisce?: boolean | string;
  readonly progressInterval: number;
}

export const backupCommand: Register = (program, run) => {
  const {
    level,
    target,
    output,
    format,
    monthly,
    autoFullAfter,
    fullInstead,
    dryRun,
    note,
    include,
    exclude,
    excludeRaw,
    allowPlaintext,
  } = BACKUP_OPTIONS;
  const { skipFailedDisks, quiesce, freezeTimeout, freezeLimit, fleece, fleeceDir, cbwTimeout } = BACKUP_OPTIONS;
  const { compress, verify, digest, sha256, vmName, speedLimit, reserve, force, stallTimeout } = BACKUP_OPTIONS;
  const { progressInterval, breakLock, offline, startPaused, method, killJob } = BACKUP_OPTIONS;
  const { track, overlayDir } = BACKUP_OPTIONS;
  const bytes = { value: '<bytes>' };
  const seconds = { value: '<seconds>' };
  const command = program
    .command('backup')
    .description('take one restore point of all disks of a VM')
    .addOption(
      optionOf(level, 'auto: incremental where that is safe; else what differs from the newest file, or full', {
        short: '-l',
        value: '<level>',
      }),
    )
    .addOption(optionOf(target, 'folder of the backups', { short: '-t', value: '<dir>' }))
    .addOption(
      optionOf(
        output,
        'with --level copy, instead of --target: -, a tar of raw images on stdout; with --format raw a folder for them',
        { short: '-o', value: '<dir>' },
      ),
    )
    .addOption(
      optionOf(format, 'raw: plain images in the folder of --output, which are no point', { value: '<format>' }),
    )
    .addOption(optionOf(monthly, 'keep a chain a month, in <target>/<vm name>/<YYYY-MM>'))
    .addOption(
      optionOf(
        autoFullAfter,
        'begin a new chain at this age (30d), number of points (100) or size of the increments against the FULL (150%); repeatable',
        {
          value: '<limit>',
        },
      ),
    )
    .addOption(
      optionOf(
        fullInstead,
        'a full backup of disks without a usable bitmap, instead of what differs from their newest file',
      ),
    )
    .addOption(optionOf(dryRun, 'say what would be done, and why'))
    .addOption(optionOf(note, 'a note that is kept with the point', { value: '<text>' }))

    .optionsGroup('Disks:')
    .addOption(
      optionOf(include, 'only these disks: a comma list of disk ids, devices, nodes or file names', {
        short: '-i',
        value: '<disks>',
      }),
    )
    .addOption(optionOf(exclude, 'all disks but these', { short: '-e', value: '<disks>' }))
    .option('--include-raw', 'raw disks are backed up by default; accepted for old cron lines')
    .addOption(optionOf(excludeRaw, 'leave raw disks out'))
    .addOption(optionOf(allowPlaintext, 'back encrypted disks up, decrypted'))
    .addOption(optionOf(skipFailedDisks, 'back the others up where a disk cannot be copied, or fails; exit code 3'))

    .optionsGroup('Guest:')
    .addOption(
      optionOf(quiesce, 'freeze the guest by its agent; with =require the run fails where that fails', {
        value: '[require]',
      }),
    )
    .addOption(new Option('--quisce [require]').hideHelp())
    .addOption(optionOf(freezeTimeout, 'how long the agent may take to freeze; also 2m', seconds))
    .addOption(optionOf(freezeLimit, 'the guest is thawed after this long, whatever happens', seconds))
    .addOption(
      optionOf(fleece, 'keep what the guest overwrites in a local scratch image, so that a bad target cannot harm it', {
        value: '<when>',
      }),
    )
    .addOption(
      optionOf(fleeceDir, "folder of the scratch images (default: beside each disk's image)", { value: '<dir>' }),
    )
    .addOption(optionOf(cbwTimeout, 'how long a guest write may wait for a scratch image', seconds))

    .optionsGroup('What is written:')
    .addOption(optionOf(compress, 'compress the backup (zstd where QEMU has it)'))
    .addOption(
      optionOf(verify, 'compare the point with the frozen instant before it counts; =sample: parts of it', {
        value: '[share]',
      }),
    )
    .addOption(optionOf(digest, 'do not record a digest of each file'))
    .addOption(optionOf(sha256, 'record SHA-256, which also shows what was altered on purpose; slower'))
    .addOption(optionOf(vmName, 'what to call a VM that has no name', { value: '<name>' }))

    .optionsGroup('Space, speed and time:')
    .addOption(optionOf(speedLimit, 'bytes per second for each disk; also 20M', bytes))
    .addOption(optionOf(reserve, 'what stays free on the target (default: the larger of 256M and 1 %)', bytes))
    .addOption(optionOf(force, 'begin although the space may be too little; the run ends before it is used up'))
    .addOption(optionOf(stallTimeout, 'end the run when the target hangs for so long; also 2m', seconds))
    .addOption(optionOf(progressInterval, 'time between two progress lines', seconds))
    .addOption(optionOf(breakLock, 'take a lock that another host holds'))

    .optionsGroup('VMs that are off:')
    .addOption(
      optionOf(offline, 'instead of --socket: an image of a VM that is off, by disk id; only read; repeatable', {
        value: '<disk=file>',
      }),
    )
    .addOption(optionOf(startPaused, 'start a libvirt domain that is off, paused, for as long as its backup takes'))

    .optionsGroup('libvirt domains:')
    .addOption(
      optionOf(
        method,
        "push: QEMU itself writes the backup, and the guest's writes wait for the target meanwhile; overlay: the guest writes to an overlay while its images are copied, which is then merged into them; auto: pull, where that does not harm the guest",
        { value: '<method>' },
      ),
    )
    .addOption(
      optionOf(
        track,
        'overlay: with --method overlay; the overlay stays and records what changes until the next run, on any kind of disk',
        { value: '<how>' },
      ),
    )
    .addOption(optionOf(overlayDir, "folder of the overlays (default: beside each disk's image)", { value: '<dir>' }))
    .addOption(optionOf(killJob, 'end a backup job of somebody else that is running'))
    .addHelpText('after', EXAMPLES);
  for (const { flags, instead } of REFUSED) command.addOption(new Option(flags, instead).hideHelp());
  command.action(run<Flags>((flags, context) => runBackup(flags, context)));
};

const EXAMPLES = `
Examples:
  qmpbackup --socket /run/vm.qmp backup --monthly --target /backup
  qmpbackup --socket /run/vm.qmp --agent-socket /run/vm.qga backup --level inc --quiesce --target /backup/vm
  qmpbackup --socket /run/vm.qmp backup --auto-full-after 30d --auto-full-after 200% --target /backup/vm
  qmpbackup --socket tcp:127.0.0.1:4444 backup --level full --include disk1 --speed-limit 50M --target /backup/vm
  qmpbackup --socket /run/vm.qmp backup --fleece always --verify --target /mnt/nfs/vm
  qmpbackup --socket /run/vm.qmp backup --dry-run --target /backup/vm
  qmpbackup --socket /run/vm.qmp backup --level copy --output - | zstd | ssh host 'cat > vm.tar.zst'
  qmpbackup --socket /run/vm.qmp backup --level copy --format raw --output /export/vm
  qmpbackup --domain web1 backup --method push --target /backup/web1
  qmpbackup --domain web1 backup --method overlay --level full --target /backup/web1
  qmpbackup --domain web1 backup --method overlay --track overlay --overlay-dir /var/lib/overlays --target /backup/web1
  qmpbackup backup --offline disk1=/var/lib/vm/disk1.qcow2 --offline disk2=/dev/vg/disk2 --target /backup/vm`;

/** Options of the Python tool that have no place here, each with what to do instead. */
const REFUSED = [
  { flags: '--uuid <id>', instead: 'the target knows its own id; choose another --target for another chain' },
  { flags: '--no-subdir', instead: 'each disk has a folder of its own, named by its disk id; leave the option out' },
  { flags: '--no-timestamp', instead: 'files are numbered so that none is ever overwritten; leave the option out' },
  { flags: '--no-symlink', instead: 'no symbolic links are made; leave the option out' },
  { flags: '--remove-delay <seconds>', instead: 'nothing has to be waited for; leave the option out' },
  { flags: '--blockdev-aio <mode>', instead: 'QEMU opens the target with its defaults; leave the option out' },
  { flags: '--blockdev-disable-cache', instead: 'QEMU opens the target with its defaults; leave the option out' },
] as const;

function refuseForeignOptions(flags: Readonly<Record<string, unknown>>): void {
  for (const refused of REFUSED) {
    const option = new Option(refused.flags);
    const given = flags[option.attributeName()];
    if (given === undefined || (option.negate && given === true)) continue;
    throw new QmpBackupError('usage', `${option.long} is not an option of this tool`, { hint: refused.instead });
  }
}

async function runBackup(flags: Flags, context: CommandContext): Promise<void> {
  refuseForeignOptions(flags as unknown as Record<string, unknown>);
  const written = flags.target ?? (flags.output === '-' ? undefined : flags.output);
  if (written !== undefined && (await hasRunAsChild(written))) return;
  const { globals, log, signal, now, trace } = context;
  if (flags.output === '-') context.stdoutIsData('--output -');
  const progress = createProgress(log, flags.progressInterval * 1000, globals.quiet ?? false);
  const quiesce = flags.quiesce ?? flags.quisce;
  const request = requestFrom(BACKUP_OPTIONS, { ...globals, ...flags, quiesce });
  const result = await backup(
    { ...request, progressInterval: progress.pollMs / 1000 },
    {
      signal,
      now,
      trace,
      archive: (bytes) => putBytes(bytes, signal),
      report: (event) => {
        switch (event.kind) {
          case 'warning':
            context.warn(event);
            return;
          case 'reminder':
            context.remind(event);
            return;
          case 'repaired':
            log.write('info', `repaired what an earlier run left behind, steps: ${event.actions.length}`);
            for (const action of event.actions) log.write('debug', `repair: ${JSON.stringify(action)}`);
            return;
          case 'planned':
            for (const { disk, level, reason } of event.plan.disks) {
              log.write('info', `${disk}: ${level.toUpperCase()}, ${reason}`);
            }
            log.write(event.fleecing.fleece ? 'info' : 'debug', fleecingText(event.fleecing));
            for (const { name, reason, kind } of event.plan.leftOut) {
              if (kind !== 'rule' && kind !== 'failed') log.write('info', `${name}: left out, ${reason}`);
            }
            for (const disk of event.plan.removed) log.write('info', `${disk}: the VM no longer has this disk`);
            return;
          case 'started':
            if (event.instant.freeze) {
              const { fileSystems, frozenMs } = event.instant.freeze;
              const time = frozenMs === null ? '' : ` for ${frozenMs.toFixed(1)} ms`;
              log.write('info', `${fileSystems} file systems were frozen${time}`);
            }
            if (event.instant.pausedMs !== null) {
              log.write('info', `the VM stood still for ${event.instant.pausedMs.toFixed(1)} ms`);
            }
            return;
          case 'progress':
            progress.show(event.disks);
            return;
          case 'verifying':
            progress.end();
            log.write('info', `${event.disk}: comparing ${event.share} with the frozen instant`);
            return;
          case 'sealing':
            progress.end();
            return;
        }
      },
    },
  );
  context.done(
    () => backupDocument(result),
    () => renderBackup(result, { isPoint: flags.output === undefined }),
    flags.output === '-'
      ? 'the archive is whole'
      : flags.output !== undefined
        ? 'the images are whole'
        : result.point
          ? 'the point is sealed'
          : 'nothing was changed',
  );
  if (result.point?.lacks?.some(({ kind }) => kind === 'failed')) context.endWith('partial');
}
