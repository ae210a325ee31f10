import type { BackupRun } from '../point/backup-run.js';
import type { Fleecing } from './choose-fleecing.js';
import type { Planned } from '../point/plan-run.js';
import type { VmSession } from './vm-session.js';

/** A backup of a VM that is reached by QMP, as its stages share it. */
export interface QmpRun extends BackupRun {
  readonly session: VmSession;
}

export interface QmpPlan extends Planned {
  readonly fleecing: Fleecing;
}
