import { type AskedPoint, askedPoint, LOCK_OPTIONS, POINT_OPTIONS, TARGET_OPTIONS } from '../../backends/vm-options.js';
import {
  bytes,
  choice,
  type OptionRules,
  type RequestOf,
  requiredWord,
  valuesOf,
  words,
  yesOrNo,
} from '../../core/option-rules.js';
import { QmpBackupError } from '../../errors.js';

export const NETWORKS = ['none', 'as-recorded'] as const;

export const BOOT_OPTIONS = {
  ...TARGET_OPTIONS,
  /** Without, that of the overlays in `to`, else the newest that is whole. */
  ...POINT_OPTIONS,
  ...LOCK_OPTIONS,
  /** Folder of the overlays, which take what the VM writes. */
  to: requiredWord('--to'),
  /** What the VM is connected to. */
  network: choice('--network', NETWORKS, 'none'),
  /** A channel for the guest agent although the VM had none. */
  agent: yesOrNo('--agent'),
  /** Copies into the overlays what they do not have, until the VM needs the backup no more. */
  stream: yesOrNo('--stream'),
  /** Bytes per second that are copied so; 0 is no limit. */
  rateLimit: bytes('--rate-limit', 0),
  /** More arguments for QEMU. */
  arguments: words('arguments after --'),
} satisfies OptionRules;

export type BootRequest = RequestOf<typeof BOOT_OPTIONS>;

export interface BootOptions {
  readonly target: string;
  /** Null: that of the overlays, or the newest. */
  readonly asked: AskedPoint | null;
  readonly to: string;
  readonly network: (typeof NETWORKS)[number];
  readonly agent: boolean;
  readonly stream: boolean;
  readonly rateLimit: number;
  readonly arguments: readonly string[];
  readonly breakLock: boolean;
}

/** What would leave the process that we started, or the guest, where nobody finds it. */
const NOT_OURS = ['daemonize', 'incoming', 'snapshot'];

/** @throws QmpBackupError `usage` */
export function bootOptions(request: BootRequest): BootOptions {
  const { point, at, ...options } = valuesOf(BOOT_OPTIONS, request);
  const [first] = options.arguments;
  if (first !== undefined && !first.startsWith('-')) {
    throw new QmpBackupError('usage', `${first} is no option of QEMU`, {
      hint: 'What comes after -- is for QEMU, and begins with an option, as in: -- -vnc :1',
    });
  }
  const refused = options.arguments.find((each) => NOT_OURS.includes(each.replace(/^--?/, '')));
  if (refused !== undefined) {
    throw new QmpBackupError('usage', `${refused} does not go with boot`, {
      hint: 'The VM is a process of its own already, and keeps what it writes in the overlays. Leave it out.',
    });
  }
  return { ...options, asked: point === null && at === null ? null : askedPoint({ point, at }) };
}
