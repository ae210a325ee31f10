import { LOCK_OPTIONS, NAMED_VM_OPTIONS, TARGET_OPTIONS } from '../../backends/vm-options.js';
import { type OptionRules, type RequestOf, valuesOf, wholeNumber, word, yesOrNo } from '../../core/option-rules.js';
import { QmpBackupError } from '../../errors.js';

export const CONSOLIDATE_OPTIONS = {
  ...TARGET_OPTIONS,
  ...NAMED_VM_OPTIONS,
  ...LOCK_OPTIONS,
  /** So many points of the newest chain remain, the new FULL counted. */
  keep: wholeNumber('--keep'),
  /** The point that becomes the FULL: see `pointNamed`. */
  until: word('--until'),
  /** The last point of a disk that the VM has lost may go. */
  allowRemoveAll: yesOrNo('--allow-remove-all'),
  /** Says what would be merged. */
  dryRun: yesOrNo('--dry-run'),
} satisfies OptionRules;

export type ConsolidateRequest = RequestOf<typeof CONSOLIDATE_OPTIONS>;

export interface ConsolidateOptions {
  readonly target: string;
  /** `--vm-name`. */
  readonly label: string | null;
  /** How many points remain, or the name of the one that becomes the FULL. */
  readonly head: { readonly keep: number } | { readonly until: string };
  readonly allowRemoveAll: boolean;
  readonly dryRun: boolean;
  readonly breakLock: boolean;
}

/** @throws QmpBackupError `usage` */
export function consolidateOptions(request: ConsolidateRequest): ConsolidateOptions {
  const { monthly, vmName, keep, until, ...values } = valuesOf(CONSOLIDATE_OPTIONS, request);
  if ((keep === null) === (until === null)) {
    const why = keep === null ? 'consolidate was not told how far to merge' : '--keep and --until exclude each other';
    throw new QmpBackupError('usage', why, {
      hint: 'Give --keep N (so many points remain) or --until POINT (it becomes the FULL); --dry-run says what would go.',
    });
  }
  if (vmName !== null && !monthly) {
    throw new QmpBackupError('usage', '--vm-name goes with --monthly', {
      hint: 'It names the folder of one VM below --target.',
    });
  }
  return { ...values, label: vmName, head: until === null ? { keep: keep ?? 1 } : { until } };
}
