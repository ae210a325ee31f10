import type { SourceDisk, VmState } from '../core/disk.js';
import type { BackupPlan } from '../core/plan.js';
import type { RepairAction } from '../core/reconcile.js';
import type { Warning } from '../core/warning.js';
import type { Unwind } from '../flow/unwind.js';
import type { Owner } from '../host/ownership.js';
import type { TargetState } from '../repository/target.js';
import type { BackupRun, Planned } from './backup-run.js';
import type { CopyMethod } from './copy-method.js';
import type { RepairReport } from './repair.js';

/**
 * The way to a VM: what differs between one that is reached by QMP and others. Catalog, layout, plan, seal and
 * retention do not know which it is.
 */
export interface Backend {
  /** The VM as it was looked at once, under its lock. */
  readonly state: VmState;
  /** Aborts when the VM's lock is lost. */
  readonly signal: AbortSignal;
  /** For whoever finds a lock held. */
  readonly subject: string;
  /** Of a VM that is reached by QMP, as its journals have it; null for others. */
  readonly monitor: string | null;
  /** To whom files must belong so that the VM's process can open them; undefined leaves them to this user. */
  readonly imageOwner: Owner | undefined;
  /** What a dead run left, as far as it is in the VM or named by the target's journal. Changes nothing. */
  observeRepairs(target: TargetState): Promise<readonly RepairAction[]>;
  repair(target: TargetState, vm: VmState): Promise<Repaired>;
  /** For `--dry-run`: what `makeReady` would come to, as far as it can be told without changing anything. */
  foresee(vm: VmState): ReadyVm;
  /**
   * The VM as it is to be backed up, once the target is locked and all is repaired. What this changes, such as a domain
   * that it starts, it gives back by `unwind`.
   */
  makeReady(run: BackupRun, repaired: VmState, unwind: Unwind): Promise<ReadyVm>;
}

/** A VM that is planned for and copied from. */
export interface ReadyVm {
  readonly vm: VmState;
  /** The name of the bitmap that tracks what changes since the point of `attempt`; null where none can be added. */
  readonly bitmapName: ((targetId: string, disk: string, attempt: string) => string) | null;
  /** Decides how the disks are copied and their instant is kept. Changes nothing. */
  prepare(run: BackupRun, planned: Planned, facts: TargetStorage): Promise<CopyMethod>;
  /** Asks whether the guest could be frozen, and changes nothing. Says and throws what a run would. */
  checkFreeze(run: BackupRun): Promise<void>;
  /** The disks, with bitmaps that are in their images and that whoever runs the VM has forgotten: they go on recording. */
  withOrphanBitmaps(disks: readonly SourceDisk[]): Promise<readonly SourceDisk[]>;
  /** Removes what the newest point made superfluous; resolves to what else is to be said. */
  retire(run: BackupRun, plan: BackupPlan, actions: readonly RepairAction[]): Promise<readonly Warning[]>;
}

export interface Repaired {
  readonly vm: VmState;
  readonly report: RepairReport;
}

export interface TargetStorage {
  /** The target is on a file system that may hang. */
  readonly network: boolean;
  readonly spaceIsShort: boolean;
}
