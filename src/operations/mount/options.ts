import { type AskedPoint, askedPoint, LOCK_OPTIONS, POINT_OPTIONS, TARGET_OPTIONS } from '../../backends/vm-options.js';
import { names, type OptionRules, type RequestOf, requiredWord, valuesOf, yesOrNo } from '../../core/option-rules.js';

export const MOUNT_OPTIONS = {
  ...TARGET_OPTIONS,
  ...POINT_OPTIONS,
  ...LOCK_OPTIONS,
  /** What was read is proved by its digests. */
  verify: yesOrNo('--no-verify', true),
  /** Only these disks, by disk id. */
  disks: names('--disk'),
  /** An empty folder, or one that is not there yet. */
  mountpoint: requiredWord('<mountpoint>'),
} satisfies OptionRules;

export type MountRequest = RequestOf<typeof MOUNT_OPTIONS>;

export interface MountOptions extends AskedPoint {
  readonly target: string;
  readonly disks: readonly string[];
  readonly mountpoint: string;
  readonly breakLock: boolean;
  readonly verify: boolean;
}

/** @throws QmpBackupError `usage` */
export function mountOptions(request: MountRequest): MountOptions {
  const { point, at, ...values } = valuesOf(MOUNT_OPTIONS, request);
  return { ...values, ...askedPoint({ point, at }) };
}

export const UMOUNT_OPTIONS = {
  /** The folder that was given to `mount`. */
  mountpoint: requiredWord('<mountpoint>'),
} satisfies OptionRules;

export type UmountRequest = RequestOf<typeof UMOUNT_OPTIONS>;
