import { LOCK_OPTIONS } from '../../backends/vm-options.js';
import { type OptionRules, type RequestOf, requiredWord, word, valuesOf } from '../../core/option-rules.js';
import type { ImageFormat } from '../../qemu-tools/steps.js';
import { DISK_FOLDER_OPTIONS, diskFolderOf } from '../../repository/disk-folder.js';
import { IMAGE_OPTIONS } from './options.js';

export const MERGE_OPTIONS = {
  ...DISK_FOLDER_OPTIONS,
  ...LOCK_OPTIONS,
  ...IMAGE_OPTIONS,
  /** The image to make; must not exist. */
  targetFile: requiredWord('--targetfile'),
  /** The file whose state is wanted; without, the newest of the newest FULL's branch. */
  until: word('--until'),
} satisfies OptionRules;

export type MergeRequest = RequestOf<typeof MERGE_OPTIONS>;

export interface MergeOptions {
  /** `<target>/<disk>`. */
  readonly dir: string;
  readonly targetFile: string;
  readonly until: string | undefined;
  readonly format: ImageFormat;
  readonly rateLimit: number;
  readonly verify: boolean;
  readonly owner: string | null;
  readonly breakLock: boolean;
}

/** @throws QmpBackupError `usage` */
export function mergeOptions(request: MergeRequest): MergeOptions {
  const { target, disk, dir, until, ...values } = valuesOf(MERGE_OPTIONS, request);
  return { ...values, dir: diskFolderOf({ target, disk, dir }), until: until ?? undefined };
}
