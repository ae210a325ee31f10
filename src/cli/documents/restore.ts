import type { Warning } from '../../core/warning.js';
import type { RestoreResult } from '../../operations/restore/request.js';
import { envelope } from './envelope.js';
import { lackedPart, leftOutPart, warningPart } from './parts.js';
import type { RestoreDocument } from './schemas/restore.js';

export function restoreDocument(result: RestoreResult, warnings: readonly Warning[]): RestoreDocument {
  const { output, point, disks, leftOut, lacks, machine, compared, definition } = result;
  return {
    ...envelope('restore'),
    output,
    point,
    disks: disks.map(({ disk, path, format, files, virtualSize }) => ({ disk, path, format, files, virtualSize })),
    leftOut: leftOut.map(leftOutPart),
    lacks: lacks.map(lackedPart),
    machine,
    compared,
    definition: definition && definitionPart(definition),
    warnings: warnings.map(warningPart),
  };
}

function definitionPart(definition: NonNullable<RestoreResult['definition']>): RestoreDocument['definition'] {
  const { name, uuid, xml, nvram, tpm, notes, defined } = definition;
  return { name, uuid, xml, nvram, tpm, notes, defined };
}
