import { dirname } from 'node:path';
import type { Backend } from '../../backends/backend.js';
import type { BackupRun } from '../../backends/backup-run.js';
import type { VmState } from '../../core/disk.js';
import type { RepairAction } from '../../core/reconcile.js';
import { monthsWithJournal } from '../../repository/layout.js';
import { lockTarget } from '../../repository/lock.js';
import { readTarget, refuseOtherVm } from '../../repository/target.js';

/** A run that died in the last hour of a month is repaired by the first one of the next, which has another folder. */
export async function repairOtherMonths(
  run: BackupRun,
  backend: Backend,
  seen: VmState,
): Promise<{ readonly vm: VmState; readonly actions: readonly RepairAction[] }> {
  const { options, target } = run;
  const actions: RepairAction[] = [];
  let vm = seen;
  if (!options.monthly) return { vm, actions };
  const months = await monthsWithJournal(dirname(target));
  for (const month of months.filter((each) => each !== target)) {
    const lock = await lockTarget(month, {
      breakLock: options.breakLock,
      purpose: `repair before a backup of ${target}`,
    });
    try {
      const state = await readTarget(month, true);
      refuseOtherVm(state, run.identity, vm.disks);
      const done = await backend.repair(state, vm);
      done.report.warnings.forEach(run.warn);
      actions.push(...done.report.actions);
      vm = done.vm;
    } finally {
      await lock.release();
    }
  }
  return { vm, actions };
}
