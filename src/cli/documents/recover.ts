import type { Warning } from '../../core/warning.js';
import type { RecoveredTarget, RecoverResult } from '../../operations/recover/recover.js';
import { envelope } from './envelope.js';
import { warningPart } from './parts.js';
import { repairDocument } from './repair.js';
import type { RecoverDocument } from './schemas/recover.js';

export function recoverDocument({ targets, vm, dryRun }: RecoverResult, warnings: readonly Warning[]): RecoverDocument {
  return {
    ...envelope('recover'),
    targets: targets.map(targetPart),
    vm: vm.map(repairDocument),
    dryRun,
    warnings: warnings.map(warningPart),
  };
}

function targetPart({ target, run, actions, left }: RecoveredTarget): RecoverDocument['targets'][number] {
  return {
    target,
    run: run && { what: run.what, startedAt: run.startedAt, sealed: run.sealed },
    actions: actions.map(repairDocument),
    left,
  };
}
