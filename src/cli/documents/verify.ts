import type { TargetFinding } from '../../core/target-finding.js';
import type { Warning } from '../../core/warning.js';
import type { VerifiedTarget, VerifyResult } from '../../operations/verify/request.js';
import { envelope } from './envelope.js';
import { identityPart, warningPart } from './parts.js';
import type { VerifyDocument } from './schemas/verify.js';

type TargetPart = VerifyDocument['targets'][number];

export function verifyDocument({ targets }: VerifyResult, warnings: readonly Warning[]): VerifyDocument {
  return { ...envelope('verify'), targets: targets.map(targetPart), warnings: warnings.map(warningPart) };
}

function targetPart(verified: VerifiedTarget): TargetPart {
  const { target, vm, targetId, findings, repaired, points, lost, files, read, booted } = verified;
  return {
    target,
    vm: vm && identityPart(vm),
    targetId,
    findings: findings.map(findingPart),
    repaired,
    points,
    lost,
    files,
    booted: booted && {
      ...{ point: booted.name, by: booted.proof.by, afterMs: booted.proof.afterMs, why: booted.proof.why },
      evidence: booted.evidence.files,
    },
    read: { files: read.files, bytes: read.bytes },
  };
}

function findingPart({ level, subject, code, file, what, todo }: TargetFinding): TargetPart['findings'][number] {
  return { level, subject, code, file, what, todo };
}
