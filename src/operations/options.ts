import { LOCK_OPTIONS, requireVm, TARGET_OPTIONS, VM_OPTIONS, vmOf } from '../backends/vm-options.js';
import type { AskedVm } from '../backends/address.js';
import { type OptionRules, type RequestOf, word, words, valuesOf, yesOrNo } from '../core/option-rules.js';
import { QmpBackupError } from '../errors.js';

/** What the verbs that have no folder of their own can be asked. */
export const LIST_OPTIONS = TARGET_OPTIONS;
export type ListRequest = RequestOf<typeof LIST_OPTIONS>;

export const INFO_OPTIONS = { ...VM_OPTIONS, ...LOCK_OPTIONS } satisfies OptionRules;
export type InfoRequest = RequestOf<typeof INFO_OPTIONS>;

export interface InfoOptions {
  readonly vm: AskedVm;
  readonly breakLock: boolean;
}

/** @throws QmpBackupError `usage` */
export function infoOptions(request: InfoRequest): InfoOptions {
  const { breakLock, ...named } = valuesOf(INFO_OPTIONS, request);
  return { vm: requireVm(named), breakLock };
}

export const CLEANUP_OPTIONS = {
  ...VM_OPTIONS,
  ...LOCK_OPTIONS,
  /** Bitmaps are removed: all of ours, or those that the other options choose. */
  removeBitmaps: yesOrNo('--remove-bitmaps'),
  /** Only bitmaps whose name holds this target or chain id. */
  uuid: word('--uuid'),
  /** Only bitmaps of `targets` that none of their files needs. */
  stale: yesOrNo('--stale'),
  /** With `stale`: targets whose needed bitmaps stay. */
  targets: words('--target'),
  /** Images of a VM that is off, instead of a VM. */
  images: words('--image'),
  /** Says what would be removed. */
  dryRun: yesOrNo('--dry-run'),
} satisfies OptionRules;
export type CleanupRequest = RequestOf<typeof CLEANUP_OPTIONS>;

export interface CleanupOptions {
  readonly vm: AskedVm | null;
  readonly images: readonly string[];
  readonly uuid: string | null;
  /** Targets whose needed bitmaps stay; null where none was asked about. */
  readonly staleTargets: readonly string[] | null;
  readonly dryRun: boolean;
  readonly breakLock: boolean;
}

/** @throws QmpBackupError `usage` */
export function cleanupOptions(request: CleanupRequest): CleanupOptions {
  const { removeBitmaps, stale, targets, images, uuid, dryRun, breakLock, ...named } = valuesOf(
    CLEANUP_OPTIONS,
    request,
  );
  if (!removeBitmaps) {
    throw new QmpBackupError('usage', 'cleanup was told nothing to clean up', { hint: 'Use --remove-bitmaps.' });
  }
  if (targets.length > 0 && !stale) {
    throw new QmpBackupError('usage', '--target goes with --stale', {
      hint: 'With --stale the bitmaps that these targets need stay; without, all of ours go.',
    });
  }
  if (stale && targets.length === 0) {
    throw new QmpBackupError('usage', '--stale needs to know the targets whose bitmaps are still needed', {
      hint: 'Name each of them with --target DIR.',
    });
  }
  const vm = images.length > 0 ? vmOf(named) : requireVm(named);
  return { vm, images, uuid, staleTargets: stale ? targets : null, dryRun, breakLock };
}
