import type { Warning } from '../../core/warning.js';
import type { ImportedPoint, ImportResult } from '../../operations/import/import-run.js';
import { envelope } from './envelope.js';
import { identityPart, warningPart } from './parts.js';
import type { ImportDocument } from './schemas/import.js';

export function importDocument(
  { source, target, vm, chain, points, dryRun }: ImportResult,
  warnings: readonly Warning[],
): ImportDocument {
  return {
    ...envelope('import'),
    source,
    target,
    vm: identityPart(vm),
    chain,
    points: points.map(pointPart),
    dryRun,
    warnings: warnings.map(warningPart),
  };
}

function pointPart({ level, number, checkpoint, createdAt, disks }: ImportedPoint): ImportDocument['points'][number] {
  return {
    level,
    number,
    checkpoint,
    createdAt,
    disks: disks.map(({ disk, from, file, parent, virtualSize, suspect }) => ({
      disk,
      from,
      file,
      parent,
      virtualSize,
      suspect,
    })),
  };
}
