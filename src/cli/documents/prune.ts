import type { Warning } from '../../core/warning.js';
import type { PrunedHistory, PrunedPoint, PruneResult } from '../../operations/prune/request.js';
import { envelope } from './envelope.js';
import { identityPart, warningPart } from './parts.js';
import type { PruneDocument } from './schemas/prune.js';

type HistoryPart = PruneDocument['histories'][number];

export function pruneDocument({ histories, dryRun }: PruneResult, warnings: readonly Warning[]): PruneDocument {
  return {
    ...envelope('prune'),
    histories: histories.map(historyPart),
    dryRun,
    warnings: warnings.map(warningPart),
  };
}

function historyPart({ vm, targets, points, removed, freed, missing, failed }: PrunedHistory): HistoryPart {
  return {
    vm: identityPart(vm),
    targets,
    points: points.map(pointPart),
    removed,
    freed,
    missing,
    failed: failed && { why: failed.message, hint: failed.hint ?? null },
  };
}

function pointPart({ target, point, name, reasons, mergedInto, bytes }: PrunedPoint): HistoryPart['points'][number] {
  const { id, chain, number, createdAt } = point;
  return {
    ...{ target, id, chain, number, createdAt, name, kept: reasons.length > 0 },
    reasons: reasons.map(({ code, text }) => ({ code, text })),
    mergedInto,
    bytes,
  };
}
