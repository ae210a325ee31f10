import type { CleanupResult, JudgedBitmap } from '../../operations/cleanup.js';
import { envelope } from './envelope.js';
import { repairDocument } from './repair.js';
import type { CleanupDocument } from './schemas/cleanup.js';

export function cleanupDocument({ bitmaps, stuck, needFull, dryRun, repairs }: CleanupResult): CleanupDocument {
  return {
    ...envelope('cleanup'),
    bitmaps: bitmaps.map(bitmapPart),
    stuck: stuck.map(bitmapPart),
    needFull,
    dryRun,
    repairs: repairs.map(repairDocument),
  };
}

function bitmapPart({ where, bitmap, removed, why }: JudgedBitmap): CleanupDocument['bitmaps'][number] {
  return { where, bitmap, removed, why };
}
