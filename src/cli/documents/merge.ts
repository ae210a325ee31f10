import type { Warning } from '../../core/warning.js';
import type { MergeResult } from '../../operations/restore/merge.js';
import { envelope } from './envelope.js';
import { warningPart } from './parts.js';
import type { MergeDocument } from './schemas/merge.js';

export function mergeDocument(
  { targetFile, files, virtualSize }: MergeResult,
  warnings: readonly Warning[],
): MergeDocument {
  return { ...envelope('merge'), targetFile, files, virtualSize, warnings: warnings.map(warningPart) };
}
