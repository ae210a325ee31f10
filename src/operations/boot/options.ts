import { type AskedPoint, askedPoint, LOCK_OPTIONS, POINT_OPTIONS, TARGET_OPTIONS } from '../../backends/vm-options.js';
import {
  bytes,
  choice,
  type OptionRules,
  type RequestOf,
  requiredWord,
  valuesOf,
  word,
  words,
  yesOrNo,
} from '../../core/option-rules.js';
import { refuseWordsForQemu } from '../../machine/words-for-qemu.js';

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
  /** Of a point of a libvirt domain: a name for a domain beside the original. */
  name: word('--name'),
  /** URI of the libvirt that starts it; without, as virsh. */
  connect: word('--connect'),
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
  readonly name: string | null;
  readonly connect: string | null;
  readonly breakLock: boolean;
}

/** @throws QmpBackupError `usage` */
export function bootOptions(request: BootRequest): BootOptions {
  const { point, at, ...options } = valuesOf(BOOT_OPTIONS, request);
  refuseWordsForQemu(options.arguments, 'boot');
  return { ...options, asked: point === null && at === null ? null : askedPoint({ point, at }) };
}
