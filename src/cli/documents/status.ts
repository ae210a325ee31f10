import type { Warning } from '../../core/warning.js';
import { lastBoot, type Status, type VmStatus } from '../../report/status.js';
import { envelope } from './envelope.js';
import { warningPart } from './parts.js';
import { pointMadePart, vmRunPart } from './run.js';
import type { StatusDocument } from './schemas/status.js';

export function statusDocument(
  { level, vms }: Status,
  { config, at }: { readonly config: string | null; readonly at: Date },
  warnings: readonly Warning[],
): StatusDocument {
  return {
    ...envelope('status'),
    config,
    at: at.toISOString(),
    level,
    vms: vms.map(vmPart),
    warnings: warnings.map(warningPart),
  };
}

function vmPart(status: VmStatus): StatusDocument['vms'][number] {
  const { vm, target, level, reasons, facts, lastGood, ageMs, maxAgeMs, damaged, chainPoints, history } = status;
  const boot = facts && lastBoot(facts.points);
  return {
    ...{ vm, target, level, ageMs, maxAgeMs },
    reasons: reasons.map((each) => ({ level: each.level, text: each.text })),
    lastGood: lastGood && pointPart(lastGood),
    points: facts && facts.points.length,
    damaged: facts && damaged,
    chainPoints: facts && chainPoints,
    allocated: facts && facts.allocated,
    oldestProofAt: facts && facts.oldestProofAt,
    verifiedAt: history?.checks.verify ?? null,
    booted: boot && { at: boot.at, afterMs: boot.afterMs, why: boot.why },
    run: history && vmRunPart(history.run),
    backup: history && pointMadePart(history.backup),
    failingSince: history && history.failingSince,
  };
}

function pointPart({ point }: NonNullable<VmStatus['lastGood']>): StatusDocument['vms'][number]['lastGood'] {
  const { id, chain, number, createdAt } = point;
  return { id, chain, number, createdAt };
}
