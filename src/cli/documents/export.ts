import type { Warning } from '../../core/warning.js';
import type { ExportResult } from '../../operations/export/export.js';
import { envelope } from './envelope.js';
import { identityPart, warningPart } from './parts.js';
import type { ExportDocument } from './schemas/export.js';

export function exportDocument(
  { target, vm, output, points, size }: ExportResult,
  warnings: readonly Warning[],
): ExportDocument {
  return {
    ...envelope('export'),
    target,
    vm: identityPart(vm),
    output,
    points: points.map(({ id, chain, number, level, createdAt }) => ({ id, chain, number, level, createdAt })),
    size,
    warnings: warnings.map(warningPart),
  };
}
