import { bitmapName } from './names.js';

/**
 * Names of the overlays that a backup by `--method overlay` puts above the disks of a domain. Each is the name of a file, and of
 * nothing else in the world: its random part is drawn anew at every attempt.
 */

const SUFFIX = '.overlay';

/** One that stays, and is the record of what changes until the next run: its name is that of a tracking bitmap. */
export function trackingOverlay(targetId: string, disk: string, attempt: string): string {
  return `${bitmapName(targetId, disk, attempt)}${SUFFIX}`;
}

/** One that keeps the image below it still for as long as a run takes. */
export function passingOverlay(attempt: string, disk: string): string {
  return `qmpbackup-${attempt}-${disk}${SUFFIX}`;
}

/** Whether it is one of `trackingOverlay`, so that what it has recorded may be somebody's chain. */
export function isTrackingOverlay(name: string): boolean {
  return /^qmpbackup-[0-9a-f]{16}-.+-[0-9a-f]{12}\.overlay$/.test(name);
}

/** Whether it is one that runs into this target have made. */
export function isOverlayOf(targetId: string, name: string): boolean {
  return isTrackingOverlay(name) && name.startsWith(`qmpbackup-${targetId}-`);
}

/** Whether it is one of `passingOverlay`: whoever holds the VM's lock knows that no live run needs it. */
export function isPassingOverlay(name: string): boolean {
  return /^qmpbackup-[0-9a-f]{12}-.+\.overlay$/.test(name);
}

export function isOverlay(name: string): boolean {
  return isTrackingOverlay(name) || isPassingOverlay(name);
}
