import { LOCK_OPTIONS, TARGET_OPTIONS } from '../../backends/vm-options.js';
import { type OptionRules, type RequestOf, requiredWord, valuesOf, word } from '../../core/option-rules.js';
import { QmpBackupError } from '../../errors.js';

export const EXPORT_OPTIONS = {
  ...TARGET_OPTIONS,
  ...LOCK_OPTIONS,
  /** Only this point, with those that it builds on: see `pointNamed`. */
  point: word('--point'),
  /** Only the points that were sealed after this one. */
  since: word('--since'),
  /** The archive: a file that is not there yet, or `-`: see `ExportContext`. */
  output: requiredWord('--output'),
} satisfies OptionRules;

export type ExportPointsRequest = RequestOf<typeof EXPORT_OPTIONS>;

export interface ExportOptions {
  readonly target: string;
  readonly point: string | null;
  readonly since: string | null;
  readonly output: string;
  readonly breakLock: boolean;
}

/** @throws QmpBackupError `usage` */
export function exportOptions(request: ExportPointsRequest): ExportOptions {
  const options = valuesOf(EXPORT_OPTIONS, request);
  if (options.point !== null && options.since !== null) {
    throw new QmpBackupError('usage', '--point and --since exclude each other', {
      hint: '--point P is that point with all that it builds on; --since P is what came after it.',
    });
  }
  return options;
}
