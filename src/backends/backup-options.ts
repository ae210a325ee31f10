import { resolve } from 'node:path';
import { chainLimitsIn, limitsOfChain } from '../core/chain-limits.js';
import type { FleeceMode } from '../core/fleece-choice.js';
import { noteText } from '../core/note.js';
import {
  bytes,
  choice,
  filesByDisk,
  names,
  type OptionRules,
  type RequestOf,
  seconds,
  type ValuesOf,
  valuesOf,
  word,
  yesOr,
  yesOrNo,
} from '../core/option-rules.js';
import type { DigestMethod } from '../core/pieces.js';
import type { PlanRequest } from '../core/plan.js';
import { QmpBackupError } from '../errors.js';
import { toolName } from '../host/package-version.js';
import type { Endpoint } from '../qmp/endpoint.js';
import { DIGEST_OPTIONS, digestsOf } from '../repository/digest-options.js';
import type { BackupSource, NamedImage } from './address.js';
import { AGENT_OPTIONS, agentOf, LOCK_OPTIONS, NAMED_VM_OPTIONS, requireVm, VM_OPTIONS } from './vm-options.js';

/** What a backup can be asked: every option with its default, and which of them exclude each other. */
const POINT = {
  /** Folder of the backups. */
  target: word('--target'),
  /** With level `copy`, instead of a target: `-`, one tar archive that `BackupContext` takes; with `format: 'raw'`, a folder of raw images. */
  output: word('--output'),
  /** `raw`: of a copy that is no point (`output`). */
  format: choice('--format', ['qcow2', 'raw'], 'qcow2'),
  ...NAMED_VM_OPTIONS,
  ...LOCK_OPTIONS,
  /** `auto`: incremental where that is safe; else what differs from the newest file, or full. */
  level: choice('--level', ['full', 'inc', 'diff', 'auto', 'copy'], 'auto'),
  /** With `level: 'auto'`: a new chain begins where the newest is so old (`30d`), has so many points (`100`), or increments that take so much of its FULL (`150%`). */
  autoFullAfter: limitsOfChain('--auto-full-after'),
  /** With `level: 'auto'`: a FULL of disks whose changes no bitmap tells, which are else compared with their newest file. */
  fullInstead: yesOrNo('--full-instead'),
  /** Says what would be done, and why. */
  dryRun: yesOrNo('--dry-run'),
  /** Is kept with the point. */
  note: noteText('--note'),
};

const DISKS = {
  /** Only these disks: ids, devices, nodes or file names. */
  include: names('--include'),
  /** All disks but these. */
  exclude: names('--exclude'),
  excludeRaw: yesOrNo('--exclude-raw'),
  /** Encrypted disks are backed up, decrypted. */
  allowPlaintext: yesOrNo('--allow-plaintext'),
  /** The others are backed up where a disk cannot be copied, or fails. */
  skipFailedDisks: yesOrNo('--skip-failed-disks'),
};

const GUEST = {
  /** Freezes the guest by its agent; with `require` the run fails where that fails. */
  quiesce: yesOr('--quiesce', 'require'),
  /** Seconds that the agent may take to freeze. */
  freezeTimeout: seconds('--freeze-timeout', 60),
  /** Seconds after which the guest is thawed, whatever happens. */
  freezeLimit: seconds('--freeze-limit', 10),
  /** Keeps what the guest overwrites in a local scratch image, so that a bad target cannot harm it. */
  fleece: choice('--fleece', ['auto', 'always', 'never'], 'auto'),
  /** Folder of the scratch images; without, beside each disk's image. */
  fleeceDir: word('--fleece-dir'),
  /** Seconds that a guest write may wait for a scratch image. */
  cbwTimeout: seconds('--cbw-timeout', 10),
};

const WRITING = {
  compress: yesOrNo('--compress'),
  /** Compares the point with the frozen instant before it counts: all of it, or parts (`sample`). */
  verify: yesOr('--verify', 'sample'),
  ...DIGEST_OPTIONS,
};

const SPACE_AND_TIME = {
  /** Bytes per second for each disk; 0 is no limit. */
  speedLimit: bytes('--speed-limit', 0),
  /** Bytes that stay free on the target; without, the larger of 256 MiB and 1 %. */
  reserve: bytes('--reserve', null),
  /** Begins although the space may be too little. */
  force: yesOrNo('--force'),
  /** Seconds without an answer of the target, after which the run ends. */
  stallTimeout: seconds('--stall-timeout', 120),
  /** Seconds between two reports of progress; at most 1 counts. */
  progressInterval: seconds('--progress-interval', 10),
};

const OFF = {
  /** Instead of a VM: the images of one that is off, by disk id; `raw:FILE` and `qcow2:FILE` say the format. */
  offline: filesByDisk('--offline'),
  /** Starts a libvirt domain that is off, paused, for as long as its backup takes. */
  startPaused: yesOrNo('--start-paused'),
};

const LIBVIRT = {
  /** How the disks of a libvirt domain are copied: by a backup job, written by this process or by QEMU, or from below an overlay. */
  method: choice('--method', ['auto', 'pull', 'push', 'overlay'], 'auto'),
  /** With `method: 'overlay'`: the overlay stays, and is the record of what changes until the next run. */
  track: choice('--track', ['none', 'overlay'], 'none'),
  /** Folder of the overlays; without, beside each disk's image. */
  overlayDir: word('--overlay-dir'),
  /** Ends a backup job of somebody else that runs on a libvirt domain. */
  killJob: yesOrNo('--kill-job'),
};

export const BACKUP_OPTIONS = {
  ...VM_OPTIONS,
  ...AGENT_OPTIONS,
  ...POINT,
  ...DISKS,
  ...GUEST,
  ...WRITING,
  ...SPACE_AND_TIME,
  ...OFF,
  ...LIBVIRT,
} satisfies OptionRules;

export type BackupRequest = RequestOf<typeof BACKUP_OPTIONS>;
type Values = ValuesOf<typeof BACKUP_OPTIONS>;

/** A request that makes sense, with all its defaults. Times are milliseconds. */
export interface BackupOptions extends PlanRequest {
  readonly vm: BackupSource;
  readonly breakLock: boolean;
  readonly method: Values['method'];
  readonly track: Values['track'];
  readonly overlayDir: string | null;
  readonly killJob: boolean;
  readonly startPaused: boolean;
  /** Of a stream a folder that it is given. */
  readonly target: string;
  /** No point is made: the disks are read by this process and go, raw, to `-` (`archive` of the context) or into this folder; absolute. */
  readonly output: string | null;
  readonly monthly: boolean;
  /** `--vm-name`. */
  readonly label: string | null;
  readonly agent: Endpoint | null;
  readonly quiesce: 'no' | 'try' | 'require';
  readonly freezeTimeoutMs: number;
  readonly freezeLimitMs: number;
  readonly speedLimit: number;
  readonly force: boolean;
  readonly stallTimeoutMs: number;
  /** How digests of the files are made; null is not at all. */
  readonly digests: DigestMethod | null;
  readonly reserve: number | null;
  readonly fleece: FleeceMode;
  readonly fleeceDir: string | null;
  readonly verify: 'all' | 'sample' | null;
  readonly cbwTimeoutMs: number;
  readonly dryRun: boolean;
  /** Of the point. */
  readonly note: string | null;
  /** Between two looks at the jobs. */
  readonly progressIntervalMs: number;
  /** Name and version that the catalog records. */
  readonly tool: string;
}

/** @throws QmpBackupError `usage` */
export function backupOptions(request: BackupRequest): BackupOptions {
  const { socket, domain, connect, agentSocket, offline, vmName, ...values } = valuesOf(BACKUP_OPTIONS, request);
  const { skipFailedDisks, autoFullAfter, digest, sha256, quiesce, verify, ...rest } = values;
  const { freezeTimeout, freezeLimit, cbwTimeout, stallTimeout, progressInterval, output, target, ...others } = rest;
  if (output !== null) refuseForOutput(values, output);
  else if (rest.format === 'raw') refuseRawPoint();
  else if (target === null) throw new QmpBackupError('usage', 'the required option --target was not given');
  if (autoFullAfter.length > 0 && rest.level !== 'auto') {
    throw new QmpBackupError('usage', `--auto-full-after goes with --level auto, not with --level ${rest.level}`, {
      hint: 'Leave one of them out.',
    });
  }
  refuseOverlayOptions({ ...rest, ...others });
  if (rest.fullInstead && rest.level !== 'auto') {
    throw new QmpBackupError('usage', `--full-instead goes with --level auto, not with --level ${rest.level}`, {
      hint: 'Leave one of them out.',
    });
  }
  const vm = sourceOf({ ...others, socket, domain, connect, agentSocket, offline });
  return {
    ...others,
    target: target ?? '',
    output: output === null || output === '-' ? output : resolve(output),
    // Whoever takes the disks must not be waited for by the guest.
    fleece: output === null ? others.fleece : 'always',
    vm,
    agent: agentOf({ agentSocket }),
    label: vmName,
    skipFailed: skipFailedDisks,
    chainLimits: chainLimitsIn(autoFullAfter),
    digests: output === null ? digestsOf({ digest, sha256 }) : null,
    quiesce: quiesce === true ? 'try' : quiesce || 'no',
    verify: verify === true ? 'all' : verify || null,
    freezeTimeoutMs: inMs(freezeTimeout),
    freezeLimitMs: inMs(freezeLimit),
    cbwTimeoutMs: inMs(cbwTimeout),
    stallTimeoutMs: inMs(stallTimeout),
    progressIntervalMs: Math.min(inMs(progressInterval), LONGEST_POLL_MS),
    tool: toolName(),
  };
}

/** What goes together with `--method overlay`, and what does not. */
function refuseOverlayOptions({ method, track, overlayDir, level, fleece, fleeceDir }: Overlaid): void {
  const refuse = (words: string, hint: string): never => {
    throw new QmpBackupError('usage', words, { hint });
  };
  if (method !== 'overlay') {
    const option = track === 'overlay' ? '--track overlay' : overlayDir === null ? null : '--overlay-dir';
    if (option !== null) refuse(`${option} goes with --method overlay`, 'Give both, or leave it out.');
    return;
  }
  if (fleece !== 'auto' || fleeceDir !== null) {
    refuse('--fleece and --fleece-dir have no meaning with --method overlay', 'The overlays lie in --overlay-dir.');
  }
  if (track === 'none' && level !== 'copy' && level !== 'full') {
    const hint = 'Give --level full or copy, or have the overlay record what changes: --track overlay.';
    refuse(`--method overlay makes no increments by itself (--level ${level})`, hint);
  }
  if (track === 'overlay' && (level === 'copy' || level === 'diff')) {
    refuse(`--track overlay goes with --level full, inc or auto, not with --level ${level}`, 'Leave one of them out.');
  }
}

type Overlaid = Pick<Values, 'method' | 'track' | 'overlayDir' | 'level' | 'fleece' | 'fleeceDir'>;

function refuseRawPoint(): never {
  throw new QmpBackupError(
    'usage',
    '--format raw goes with --output DIR: a target keeps qcow2, which points build on',
    {
      hint: 'Give --level copy --output DIR for a folder of raw images, or restore a point with --format raw.',
    },
  );
}

/** @throws QmpBackupError `usage` for what a copy that is no point has no place for */
function refuseForOutput(
  values: Omit<Values, 'socket' | 'domain' | 'connect' | 'agentSocket' | 'offline' | 'vmName'>,
  output: string,
): void {
  const { level, target, fleece, method, format } = values;
  if (output !== '-' && format !== 'raw') {
    throw new QmpBackupError('usage', `--output ${output} takes raw images: --format raw`, {
      hint: 'Or --output -, one tar of them on stdout. Points are kept in --target.',
    });
  }
  if (level !== 'copy') {
    throw new QmpBackupError('usage', `--output goes with --level copy, not with --level ${level}`, {
      hint: 'It makes no point, so nothing can build on it. Points of a target are sent by export.',
    });
  }
  const other = [
    ...(target === null ? [] : ['--target']),
    ...(fleece === 'never' ? ['--fleece never'] : []),
    ...(method === 'push' || method === 'overlay' ? [`--method ${method}`] : []),
    ...(['monthly', 'dryRun', 'compress', 'verify', 'skipFailedDisks', 'note'] as const)
      .filter((key) => values[key] !== false && values[key] !== null)
      .map((key) => BACKUP_OPTIONS[key].flag),
  ];
  if (other.length === 0) return;
  throw new QmpBackupError('usage', `--output does not go with ${other.join(' and ')}`, {
    hint: 'It makes no point, and the disks are read while the guest goes on.',
  });
}

/** However seldom progress is told: what has ended shall not wait for it. */
const LONGEST_POLL_MS = 1_000;

function inMs(given: number): number {
  return Math.round(given * 1000);
}

type Sources = Pick<Values, keyof typeof VM_OPTIONS | keyof typeof OFF | 'method' | 'killJob' | 'agentSocket'>;

function sourceOf({ offline, startPaused, method, killJob, ...named }: Sources): BackupSource {
  const { socket, domain } = named;
  if (startPaused && domain === null) {
    throw new QmpBackupError('usage', '--start-paused starts a libvirt domain, and none was given', {
      hint: 'Name it with --domain.',
    });
  }
  if (startPaused && method === 'overlay') {
    throw new QmpBackupError('usage', '--start-paused goes with --method pull', {
      hint: 'A domain that is off needs no overlay: leave --start-paused out.',
    });
  }
  if (startPaused && method === 'push') {
    throw new QmpBackupError('usage', '--start-paused goes with --method pull', {
      hint: 'Whom the files have to belong to, so that QEMU can write them, is known only of a domain that runs.',
    });
  }
  const images = imagesOf(offline);
  if (images.length > 0 && (socket !== null || domain !== null)) {
    throw new QmpBackupError('usage', '--offline names the disks of a VM that is off, --socket and --domain a VM', {
      hint: 'Give one of them. A libvirt domain that is off is backed up by --domain alone.',
    });
  }
  const vm: BackupSource = images.length > 0 ? { kind: 'images', images } : requireVm(named);
  const option = killJob ? '--kill-job' : method === 'push' || method === 'overlay' ? `--method ${method}` : null;
  if (vm.kind === 'domain' || option === null) return vm;
  throw new QmpBackupError('usage', `${option} is for libvirt domains`, {
    hint: killJob
      ? 'Leave it out: jobs of others on a VM do not hold up a backup by --socket.'
      : 'Leave it out: a backup by --socket is always written by QEMU.',
  });
}

/** @throws QmpBackupError `usage` for a file that two disks are said to have */
function imagesOf(offline: Values['offline']): readonly NamedImage[] {
  const images: NamedImage[] = [];
  for (const [name, given] of Object.entries(offline)) {
    const [, format, file = ''] = /^(?:(raw|qcow2):)?(.+)$/s.exec(given) ?? [];
    const path = resolve(file);
    const twin = images.find((each) => each.path === path);
    if (twin) throw new QmpBackupError('usage', `--offline: ${twin.name}=${twin.path} was given before.`);
    images.push({ name, path, format: format === 'raw' || format === 'qcow2' ? format : null });
  }
  return images;
}
