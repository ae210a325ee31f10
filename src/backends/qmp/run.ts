import type { FleeceChoice } from '../../core/fleece-choice.js';
import type { QemuFeatures } from '../../qemu/features.js';
import type { FleecedDisk } from '../../qemu/fleece.js';
import type { BackupRun, Planned } from '../backup-run.js';
import type { VmSession } from './session.js';

/** A backup of a VM that is reached by QMP, as its stages share it. */
export interface QmpRun extends BackupRun {
  readonly session: VmSession;
}

export interface QmpPlan extends Planned {
  readonly fleecing: Fleecing;
}

/** Whether this run fleeces, why, and where each disk's scratch image goes. Looks only; makes nothing. */
export interface Fleecing extends FleeceChoice {
  /** By disk id; empty without fleecing. A disk that no guest device has open is read directly: no guest writes to it. */
  readonly disks: ReadonlyMap<string, FleecedDisk>;
  /** What this QEMU can do, where that was asked. */
  readonly features: QemuFeatures | null;
}
