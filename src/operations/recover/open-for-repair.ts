import type { AskedVm } from '../../backends/address.js';
import type { Repaired } from '../../backends/backend.js';
import { observeDomainRepairs, repairDomain, repairDomainAlone } from '../../backends/libvirt/repair.js';
import { lookAgain, openDomain, refuseDomainState } from '../../backends/libvirt/session.js';
import { journalledEndpoint } from '../../backends/qmp/journalled-endpoint.js';
import { refuseRunState } from '../../backends/qmp/hold-vm.js';
import { repair, repairVm } from '../../backends/qmp/repair.js';
import { ENDING_MS, openVm, type VmAccess } from '../../backends/qmp/session.js';
import { observeRepairs } from '../../backends/repair.js';
import type { VmState } from '../../core/disk.js';
import type { RepairAction } from '../../core/reconcile.js';
import type { Unwind } from '../../flow/unwind.js';
import type { TargetState } from '../../repository/target.js';

/** A VM that is held for its repair, whichever way leads to it. */
export interface VmInRepair {
  readonly state: VmState;
  /** Of a VM that is reached by QMP, as its journals have it; null for others. */
  readonly monitor: string | null;
  /** Aborts when the VM's lock is lost. */
  readonly signal: AbortSignal;
  /** What a dead run left, in the VM and in a target. Changes nothing. */
  observe(target: TargetState, vm: VmState): Promise<readonly RepairAction[]>;
  repair(target: TargetState, vm: VmState): Promise<Repaired>;
  /** What no target is concerned with. */
  repairAlone(vm: VmState): Promise<Repaired>;
}

export interface RepairAccess extends Omit<VmAccess, 'monitor' | 'endDeadJobsMs'> {
  readonly dryRun: boolean;
}

export async function openForRepair(vm: AskedVm, access: RepairAccess, unwind: Unwind): Promise<VmInRepair> {
  if (vm.kind === 'domain') {
    const session = await openDomain({ ...vm, ...access }, unwind);
    refuseDomainState(session.domain);
    return {
      state: session.state,
      monitor: null,
      signal: session.signal,
      observe: (target, seen) => observeDomainRepairs(session, target, seen),
      repair: async (target, seen) => repairDomain(await lookAgain(session), target, seen),
      repairAlone: async (seen) => repairDomainAlone(await lookAgain(session), seen),
    };
  }
  const endDeadJobsMs = access.dryRun ? null : ENDING_MS;
  const { client, state, signal } = await openVm({ ...access, monitor: vm.monitor, endDeadJobsMs }, unwind);
  refuseRunState(state);
  return {
    state,
    monitor: journalledEndpoint(vm.monitor),
    signal,
    observe: observeRepairs,
    repair: (target, seen) => repair(client, target, seen),
    repairAlone: (seen) => repairVm(client, seen),
  };
}
