import { Option } from 'commander';
import { format } from 'date-fns/format';
import type { BackupOptions, BackupResult } from '../../backends/backup-run.js';
import { QmpBackupError } from '../../errors.js';
import { backup } from '../../operations/backup/backup.js';
import { hasRunAsChild } from '../child-run.js';
import { backupDocument } from '../documents/backup.js';
import { type ImageOption, parseBytes, parseImages, parseList, secondsOption } from '../options.js';
import type { Register } from '../register.js';
import { fleecingText, renderBackup } from '../render/backup.js';
import { createProgress } from '../render/progress.js';
import { agentOf, type CommandContext, type GlobalOptions, packageVersion, requireVm } from '../wiring.js';

interface Flags {
  readonly level: BackupOptions['level'];
  readonly target: string;
  readonly monthly?: boolean;
  readonly include?: readonly string[];
  readonly exclude?: readonly string[];
  readonly quiesce?: boolean | string;
  readonly quisce?: boolean | string;
  readonly freezeTimeout: number;
  readonly freezeLimit: number;
  readonly speedLimit: number;
  readonly compress?: boolean;
  readonly force?: boolean;
  readonly stallTimeout: number;
  readonly excludeRaw?: boolean;
  readonly allowPlaintext?: boolean;
  readonly skipFailedDisks?: boolean;
  readonly vmName?: string;
  readonly progressInterval: number;
  readonly digest: boolean;
  readonly fleece: BackupOptions['fleece'];
  readonly fleeceDir?: string;
  readonly reserve?: number;
  readonly cbwTimeout: number;
  readonly verify?: boolean | string;
  readonly dryRun?: boolean;
  readonly breakLock?: boolean;
  readonly strict?: boolean;
  readonly method: BackupOptions['method'];
  readonly killJob?: boolean;
  readonly offline?: readonly ImageOption[];
  readonly startPaused?: boolean;
}

export const backupCommand: Register = (program, run) => {
  const command = program
    .command('backup')
    .description('take one restore point of all disks of a VM')
    .addOption(
      new Option('-l, --level <level>', 'auto: incremental where that is safe, full where not')
        .choices(['full', 'inc', 'diff', 'auto', 'copy'])
        .default('auto'),
    )
    .requiredOption('-t, --target <dir>', 'folder of the backups')
    .option('--monthly', 'keep a chain a month, in <target>/<vm name>/<YYYY-MM>')
    .option('--dry-run', 'say what would be done, and why')
    .option('--strict', 'end with exit code 5 where there is a warning, such as a disk that is not in the backup')

    .optionsGroup('Disks:')
    .option(
      '-i, --include <disks>',
      'only these disks: a comma list of disk ids, devices, nodes or file names',
      parseList,
    )
    .option('-e, --exclude <disks>', 'all disks but these', parseList)
    .option('--include-raw', 'raw disks are backed up by default; accepted for old cron lines')
    .option('--exclude-raw', 'leave raw disks out')
    .option('--allow-plaintext', 'back encrypted disks up, decrypted')
    .option('--skip-failed-disks', 'back the others up where a disk cannot be copied, or fails; exit code 3')

    .optionsGroup('Guest:')
    .option('--quiesce [require]', 'freeze the guest by its agent; with =require the run fails where that fails')
    .addOption(new Option('--quisce [require]').hideHelp())
    .addOption(secondsOption('--freeze-timeout <seconds>', 'how long the agent may take to freeze', 60))
    .addOption(secondsOption('--freeze-limit <seconds>', 'the guest is thawed after this long, whatever happens', 10))
    .addOption(
      new Option(
        '--fleece <when>',
        'keep what the guest overwrites in a local scratch image, so that a bad target cannot harm it',
      )
        .choices(['auto', 'always', 'never'])
        .default('auto'),
    )
    .option('--fleece-dir <dir>', "folder of the scratch images (default: beside each disk's image)")
    .addOption(secondsOption('--cbw-timeout <seconds>', 'how long a guest write may wait for a scratch image', 10))

    .optionsGroup('What is written:')
    .option('--compress', 'compress the backup (zstd where QEMU has it)')
    .option('--verify [share]', 'compare the point with the frozen instant before it counts; =sample: parts of it')
    .option('--no-digest', 'do not record a sha256 of each file')
    .option('--vm-name <name>', 'what to call a VM that has no name')

    .optionsGroup('Space, speed and time:')
    .option('--speed-limit <bytes>', 'bytes per second for each disk; also 20M', parseBytes, 0)
    .option('--reserve <bytes>', 'what stays free on the target (default: the larger of 256M and 1 %)', parseBytes)
    .option('--force', 'begin although the space may be too little; the run ends before it is used up')
    .addOption(secondsOption('--stall-timeout <seconds>', 'end the run when the target hangs for so long', 120))
    .addOption(secondsOption('--progress-interval <seconds>', 'time between two progress lines', 10))
    .option('--break-lock', 'take a lock that another host holds')

    .optionsGroup('VMs that are off:')
    .option(
      '--offline <disk=file>',
      'instead of --socket: an image of a VM that is off, by disk id; only read; repeatable',
      parseImages,
    )
    .option('--start-paused', 'start a libvirt domain that is off, paused, for as long as its backup takes')

    .optionsGroup('libvirt domains:')
    .addOption(
      new Option(
        '--method <method>',
        "push: QEMU itself writes the backup, and the guest's writes wait for the target meanwhile; auto: pull, where that does not harm the guest",
      )
        .choices(['auto', 'pull', 'push'])
        .default('auto'),
    )
    .option('--kill-job', 'end a backup job of somebody else that is running')
    .addHelpText('after', EXAMPLES);
  for (const { flags, instead } of REFUSED) command.addOption(new Option(flags, instead).hideHelp());
  command.action(run<Flags>((flags, context) => runBackup(flags, context)));
};

const EXAMPLES = `
Examples:
  qmpbackup --socket /run/vm.qmp backup --monthly --target /backup
  qmpbackup --socket /run/vm.qmp --agent-socket /run/vm.qga backup --level inc --quiesce --target /backup/vm
  qmpbackup --socket tcp:127.0.0.1:4444 backup --level full --include disk1 --speed-limit 50M --target /backup/vm
  qmpbackup --socket /run/vm.qmp backup --fleece always --verify --target /mnt/nfs/vm
  qmpbackup --socket /run/vm.qmp backup --dry-run --target /backup/vm
  qmpbackup --domain web1 backup --method push --target /backup/web1
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
  if (await hasRunAsChild(flags.target)) return;
  const { globals, log, signal, now } = context;
  const progress = createProgress(log, flags.progressInterval, globals.quiet ?? false);
  const result = await backup(
    {
      ...domainOptions(vmOf(flags, globals), flags),
      startPaused: flags.startPaused ?? false,
      agent: agentOf(globals),
      level: flags.level,
      target: flags.target,
      monthly: flags.monthly ?? false,
      include: flags.include ?? [],
      exclude: flags.exclude ?? [],
      excludeRaw: flags.excludeRaw ?? false,
      allowPlaintext: flags.allowPlaintext ?? false,
      skipFailed: flags.skipFailedDisks ?? false,
      compress: flags.compress ?? false,
      label: flags.vmName ?? null,
      quiesce: quiesceMode(flags.quiesce ?? flags.quisce),
      freezeTimeoutMs: flags.freezeTimeout,
      freezeLimitMs: flags.freezeLimit,
      speedLimit: flags.speedLimit,
      force: flags.force ?? false,
      stallTimeoutMs: flags.stallTimeout,
      digests: flags.digest,
      reserve: flags.reserve ?? null,
      fleece: flags.fleece,
      fleeceDir: flags.fleeceDir ?? null,
      cbwTimeoutMs: flags.cbwTimeout,
      verify: verifyShare(flags.verify),
      dryRun: flags.dryRun ?? false,
      progressIntervalMs: progress.pollMs,
      tool: `qmpbackup ${packageVersion()}`,
      breakLock: flags.breakLock ?? false,
      trace: context.trace,
    },
    {
      signal,
      now,
      month: () => format(now(), 'yyyy-MM'),
      report: (event) => {
        switch (event.kind) {
          case 'warning':
            log.write('warning', event.text);
            return;
          case 'reminder':
            log.write('info', event.text);
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
    () => renderBackup(result),
    result.point ? 'the point is sealed' : 'nothing was changed',
  );
  if (result.point?.lacks?.some(({ kind }) => kind === 'failed')) context.endWith('partial');
  // Done in part says more than that there were warnings.
  if (flags.strict && context.ending() === undefined && warnsOfThisRun(result)) context.endWith('warnings');
}

/** What a disk is like is no warning of this run, though it is said at the first one. */
function warnsOfThisRun({ warnings, standing }: BackupResult): boolean {
  return warnings.some((text) => !standing.includes(text));
}

function domainOptions(
  vm: BackupOptions['vm'],
  { method, killJob = false }: Flags,
): Pick<BackupOptions, 'vm' | 'method' | 'killJob'> {
  const option = killJob ? '--kill-job' : method === 'push' ? '--method push' : null;
  if (vm.kind === 'domain' || option === null) return { vm, method, killJob };
  throw new QmpBackupError('usage', `${option} is for libvirt domains`, {
    hint:
      option === '--kill-job'
        ? 'Leave it out: jobs of others on a VM do not hold up a backup by --socket.'
        : 'Leave it out: a backup by --socket is always written by QEMU.',
  });
}

function vmOf({ offline, startPaused, method }: Flags, globals: GlobalOptions): BackupOptions['vm'] {
  if (startPaused && globals.domain === undefined) {
    throw new QmpBackupError('usage', '--start-paused starts a libvirt domain, and none was given', {
      hint: 'Name it with --domain.',
    });
  }
  if (startPaused && method === 'push') {
    throw new QmpBackupError('usage', '--start-paused goes with --method pull', {
      hint: 'Whom the files have to belong to, so that QEMU can write them, is known only of a domain that runs.',
    });
  }
  if (!offline) return requireVm(globals);
  if (globals.socket !== undefined || globals.domain !== undefined) {
    throw new QmpBackupError('usage', '--offline names the disks of a VM that is off, --socket and --domain a VM', {
      hint: 'Give one of them. A libvirt domain that is off is backed up by --domain alone.',
    });
  }
  return { kind: 'images', images: offline };
}

function verifyShare(value: boolean | string | undefined): BackupOptions['verify'] {
  if (value === undefined || value === false) return null;
  if (value === true) return 'all';
  if (value === 'sample') return 'sample';
  throw new QmpBackupError('usage', `--verify=${value} is not known`, { hint: 'Use --verify or --verify=sample.' });
}

function quiesceMode(value: boolean | string | undefined): BackupOptions['quiesce'] {
  if (value === undefined || value === false) return 'no';
  if (value === true) return 'try';
  if (value === 'require') return 'require';
  throw new QmpBackupError('usage', `--quiesce=${value} is not known`, { hint: 'Use --quiesce or --quiesce=require.' });
}
