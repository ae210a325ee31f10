import { LOCK_OPTIONS } from '../../backends/vm-options.js';
import { bytes, type OptionRules, type RequestOf, word, valuesOf, yesOrNo } from '../../core/option-rules.js';
import { DISK_FOLDER_OPTIONS, diskFolderOf } from '../../repository/disk-folder.js';

export const REBASE_OPTIONS = {
  ...DISK_FOLDER_OPTIONS,
  ...LOCK_OPTIONS,
  /** The last file to merge; without, the newest of the newest FULL's branch. */
  until: word('--until'),
  /** Checks all, and says what would be merged. */
  dryRun: yesOrNo('--dry-run'),
  /** Leaves out digests and `qemu-img check` before, that check after, and the comparison of the result with what was merged. */
  skipCheck: yesOrNo('--skip-check'),
  /** Bytes per second; 0 is no limit. */
  rateLimit: bytes('--rate-limit', 0),
} satisfies OptionRules;

export type RebaseRequest = RequestOf<typeof REBASE_OPTIONS>;

export interface RebaseOptions {
  /** `<target>/<disk>`. */
  readonly dir: string;
  readonly until: string | undefined;
  readonly dryRun: boolean;
  readonly skipCheck: boolean;
  readonly rateLimit: number;
  readonly breakLock: boolean;
}

/** @throws QmpBackupError `usage` */
export function rebaseOptions(request: RebaseRequest): RebaseOptions {
  const { target, disk, dir, until, ...values } = valuesOf(REBASE_OPTIONS, request);
  return { ...values, dir: diskFolderOf({ target, disk, dir }), until: until ?? undefined };
}
