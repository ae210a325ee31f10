import type { ListedPoint, ListedTarget, ListResult } from '../../operations/list.js';
import { envelope } from './envelope.js';
import { identityPart, warningPart } from './parts.js';
import { pointDocument } from './point.js';
import type { ListDocument } from './schemas/list.js';

type TargetDocument = ListDocument['targets'][number];

export function listDocument({ targets, unread }: ListResult): ListDocument {
  return {
    ...envelope('list'),
    targets: targets.map(targetPart),
    unread: unread.map(({ target, error }) => ({ target, why: error.message, hint: error.hint ?? null })),
  };
}

function targetPart({ target, vm, targetId, points, warnings }: ListedTarget): TargetDocument {
  return { target, vm: identityPart(vm), targetId, points: points.map(pointPart), warnings: warnings.map(warningPart) };
}

function pointPart({
  point,
  needs,
  notWhole,
  damaged,
  suspect,
  booted,
  freed,
}: ListedPoint): TargetDocument['points'][number] {
  return {
    point: pointDocument(point),
    needs,
    frees: freed.bytes,
    neededBy: freed.neededBy,
    notWhole,
    damaged: damaged.map(({ disk, file, why }) => ({ disk, file, why })),
    suspect: suspect.map(({ disk, file, why }) => ({ disk, file, why })),
    booted: booted && { at: booted.at, by: booted.by, afterMs: booted.afterMs, why: booted.why },
  };
}
