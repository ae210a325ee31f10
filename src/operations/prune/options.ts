import { LOCK_OPTIONS, NAMED_VM_OPTIONS, TARGET_OPTIONS } from '../../backends/vm-options.js';
import { bytes, type OptionRules, type RequestOf, valuesOf, wholeNumber, yesOrNo } from '../../core/option-rules.js';
import type { RetentionRules } from '../../core/retention.js';
import { timeSpan } from '../../core/time-span.js';
import { QmpBackupError } from '../../errors.js';

export const PRUNE_OPTIONS = {
  ...TARGET_OPTIONS,
  ...NAMED_VM_OPTIONS,
  ...LOCK_OPTIONS,
  /** So many of the newest points are kept. */
  keepLast: wholeNumber('--keep-last'),
  /** Of so many of the newest hours that hold a point, its newest; and so on. */
  keepHourly: wholeNumber('--keep-hourly'),
  keepDaily: wholeNumber('--keep-daily'),
  keepWeekly: wholeNumber('--keep-weekly'),
  keepMonthly: wholeNumber('--keep-monthly'),
  keepYearly: wholeNumber('--keep-yearly'),
  /** What is not older than this, counted back from the newest point: `30d`, or days. */
  keepWithin: timeSpan('--keep-within'),
  /** Of what no rule keeps only so much goes that so many bytes are free. */
  keepFree: bytes('--keep-free', null),
  /** Points that others build on go, too: their data is merged into the next that stays. */
  consolidate: yesOrNo('--consolidate'),
  /** Damaged points go, too. */
  dropDamaged: yesOrNo('--drop-damaged'),
  /** The last good point of a disk may go. */
  allowRemoveAll: yesOrNo('--allow-remove-all'),
  /** Says what would go, and why. */
  dryRun: yesOrNo('--dry-run'),
} satisfies OptionRules;

export type PruneRequest = RequestOf<typeof PRUNE_OPTIONS>;

export interface PruneOptions {
  readonly target: string;
  /** `--vm-name`. */
  readonly label: string | null;
  readonly rules: RetentionRules;
  /** Bytes that are to be free; null is whatever the rules free. */
  readonly keepFree: number | null;
  readonly consolidate: boolean;
  readonly dropDamaged: boolean;
  readonly allowRemoveAll: boolean;
  readonly dryRun: boolean;
  readonly breakLock: boolean;
}

/** @throws QmpBackupError `usage`, also where there is no rule to keep anything by */
export function pruneOptions(request: PruneRequest): PruneOptions {
  const { keepLast, keepHourly, keepDaily, keepWeekly, keepMonthly, keepYearly, keepWithin, ...rest } = valuesOf(
    PRUNE_OPTIONS,
    request,
  );
  const { monthly, vmName, ...values } = rest;
  const counts = {
    ...{ last: keepLast, hourly: keepHourly, daily: keepDaily },
    ...{ weekly: keepWeekly, monthly: keepMonthly, yearly: keepYearly },
  };
  if (keepWithin === null && Object.values(counts).every((each) => each === null)) {
    throw new QmpBackupError('usage', 'prune was told nothing to keep', {
      hint: 'Give a rule, such as --keep-daily 7, --keep-last 10 or --keep-within 30d; --dry-run says what would go.',
    });
  }
  if (rest.consolidate && rest.keepFree !== null) {
    throw new QmpBackupError('usage', '--consolidate and --keep-free exclude each other', {
      hint: 'What a merge frees is known only when it is done: give rules without --keep-free.',
    });
  }
  if (vmName !== null && !monthly) {
    throw new QmpBackupError('usage', '--vm-name goes with --monthly', {
      hint: 'It names the folder of one VM below --target. Without it every VM there is pruned.',
    });
  }
  return { ...values, label: vmName, rules: { counts, within: keepWithin } };
}
