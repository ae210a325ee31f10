import type { Warning } from '../../core/warning.js';
import type { ConsolidateSourceResult } from '../../operations/consolidate-source.js';
import { envelope } from './envelope.js';
import { warningPart } from './parts.js';
import { repairDocument } from './repair.js';
import type { ConsolidateSourceDocument } from './schemas/consolidate-source.js';

export function consolidateSourceDocument(
  { disks, repairs, dryRun }: ConsolidateSourceResult,
  warnings: readonly Warning[],
): ConsolidateSourceDocument {
  return {
    ...envelope('consolidate-source'),
    disks: disks.map(({ target, image, by, removed, left }) => ({ target, image, by, removed, left })),
    dryRun,
    repairs: repairs.map(repairDocument),
    warnings: warnings.map(warningPart),
  };
}
