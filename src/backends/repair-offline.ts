import { bitmapsOfDead, onlyBitmaps } from '../core/journal-parts.js';
import type { RepairAction } from '../core/reconcile.js';
import type { Warning } from '../core/warning.js';
import { writeJournal } from '../repository/journal-file.js';
import type { TargetState } from '../repository/target.js';
import { carryOutInTarget, observeRepairs, type RepairableVm, type RepairReport } from './repair.js';

/** What a dead run left and what can be taken away while the VM is off, or has ended: all but its bitmaps, for images are only read. */
export async function observeOfflineRepairs(target: TargetState, vm: RepairableVm): Promise<readonly RepairAction[]> {
  return (await observeRepairs(target, vm)).filter(({ kind }) => POSSIBLE.includes(kind));
}

const POSSIBLE: readonly RepairAction['kind'][] = ['delete-file', 'delete-folder', 'delete-scratch', 'remove-journal'];

/** Bitmaps that a dead run may have left in the images stay in its journal: the next run of the running VM removes them. */
export async function repairOffline(target: TargetState, vm: RepairableVm): Promise<RepairReport> {
  const all = await observeOfflineRepairs(target, vm);
  const left = bitmapsOfDead(target);
  const waits = left.length > 0 || (target.journal?.overlays ?? []).length > 0;
  const actions = waits ? all.filter(({ kind }) => kind !== 'remove-journal') : all;
  const warnings: Warning[] = [];
  for (const action of actions) await carryOutInTarget(target.target, action, warnings);
  if (waits && target.journal) {
    await writeJournal(target.target, { ...onlyBitmaps(target.journal, left), overlays: target.journal.overlays });
  }
  return { actions, warnings };
}

/** Nothing of it is anywhere but in its images and in the target. */
export const ENDED_VM: RepairableVm = { disks: [], jobs: [], status: 'ended', ownNodes: [], ownExports: [] };
