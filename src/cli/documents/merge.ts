import type { MergeResult } from '../../operations/restore/merge.js';
import { envelope } from './envelope.js';
import type { MergeDocument } from './schemas/merge.js';

export function mergeDocument({ targetFile, files, virtualSize }: MergeResult): MergeDocument {
  return { ...envelope('merge'), targetFile, files, virtualSize };
}
