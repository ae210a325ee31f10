import type { Warning } from '../../core/warning.js';
import type { CleanupResult, JudgedBitmap } from '../../operations/cleanup.js';
import { envelope } from './envelope.js';
import { warningPart } from './parts.js';
import { repairDocument } from './repair.js';
import type { CleanupDocument } from './schemas/cleanup.js';

export function cleanupDocument(
  { bitmaps, stuck, needFull, dryRun, repairs }: CleanupResult,
  warnings: readonly Warning[],
): CleanupDocument {
  return {
    ...envelope('cleanup'),
    bitmaps: bitmaps.map(bitmapPart),
    stuck: stuck.map(bitmapPart),
    needFull,
    dryRun,
    repairs: repairs.map(repairDocument),
    warnings: warnings.map(warningPart),
  };
}

function bitmapPart({ where, bitmap, removed, why }: JudgedBitmap): CleanupDocument['bitmaps'][number] {
  return { where, bitmap, removed, why };
}
