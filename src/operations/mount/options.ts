import { LOCK_OPTIONS, TARGET_OPTIONS } from '../../backends/vm-options.js';
import { names, type OptionRules, type RequestOf, requiredWord, valuesOf, word } from '../../core/option-rules.js';

export const MOUNT_OPTIONS = {
  ...TARGET_OPTIONS,
  ...LOCK_OPTIONS,
  /** `N` of the newest chain, `CHAIN:N`, or a point's id; without, the newest that is whole. */
  point: word('--point'),
  /** Only these disks, by disk id. */
  disks: names('--disk'),
  /** An empty folder, or one that is not there yet. */
  mountpoint: requiredWord('<mountpoint>'),
} satisfies OptionRules;

export type MountRequest = RequestOf<typeof MOUNT_OPTIONS>;

export interface MountOptions {
  readonly target: string;
  readonly point: string | undefined;
  readonly disks: readonly string[];
  readonly mountpoint: string;
  readonly breakLock: boolean;
}

/** @throws QmpBackupError `usage` */
export function mountOptions(request: MountRequest): MountOptions {
  const { point, ...values } = valuesOf(MOUNT_OPTIONS, request);
  return { ...values, point: point ?? undefined };
}

export const UMOUNT_OPTIONS = {
  /** The folder that was given to `mount`. */
  mountpoint: requiredWord('<mountpoint>'),
} satisfies OptionRules;

export type UmountRequest = RequestOf<typeof UMOUNT_OPTIONS>;
