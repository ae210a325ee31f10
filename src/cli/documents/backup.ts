import type { BackupResult } from '../../backends/backup-run.js';
import type { BackupPlan, PlannedDisk } from '../../core/plan.js';
import { envelope } from './envelope.js';
import { fleecePart, leftOutPart, warningPart } from './parts.js';
import { pointDocument } from './point.js';
import { repairDocument } from './repair.js';
import type { BackupDocument } from './schemas/backup.js';

export function backupDocument(result: BackupResult): BackupDocument {
  const { target, plan, repairs, warnings, standing, space, point, freeze, fleecing } = result;
  return {
    ...envelope('backup'),
    target,
    plan: planPart(plan),
    repairs: repairs.map(repairDocument),
    warnings: warnings.map(warningPart),
    standing: standing.map(warningPart),
    space: { need: space.need, free: space.free, reserve: space.reserve },
    point: point && pointDocument(point),
    freeze: freeze && { fileSystems: freeze.fileSystems, frozenMs: freeze.frozenMs },
    fleecing: fleecePart(fleecing),
    pausedMs: result.pausedMs,
    transactionMs: result.transactionMs,
  };
}

/** Without names of bitmaps and jobs, and what the warnings say already. */
function planPart({ level, chain, number, disks, leftOut, removed }: BackupPlan): BackupDocument['plan'] {
  return { level, chain, number, disks: disks.map(diskPart), leftOut: leftOut.map(leftOutPart), removed };
}

function diskPart({
  disk,
  level,
  reason,
  file,
  parent,
  compares,
  source,
}: PlannedDisk): BackupDocument['plan']['disks'][number] {
  const { device, qdev, address: node, file: image, format, virtualSize } = source;
  return {
    disk,
    level,
    reason,
    file,
    parent: parent && parent.file,
    compares,
    source: { device, qdev, node, file: image, format, virtualSize },
  };
}
