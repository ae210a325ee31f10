import type { VmState } from '../../core/disk.js';
import type { FailedCopy } from '../../core/failed-copies.js';
import type { Journal } from '../../core/journal.js';
import { dismantle, reconcileVm, type RepairAction } from '../../core/reconcile.js';
import { removeBitmap } from '../../qemu/bitmaps.js';
import { type FilterInPlace, takeOutFilter } from '../../qemu/fleece.js';
import { inspectVm } from '../../qemu/inspect.js';
import { endJobs } from '../../qemu/job-watch.js';
import { stopNbdServer } from '../../qemu/nbd-export.js';
import type { QmpClient } from '../../qmp/client.js';
import { run } from '../../qmp/commands.js';
import { QmpCommandError } from '../../qmp/errors.js';
import type { TargetState } from '../../repository/target.js';
import type { Repaired } from '../backend.js';
import type { Planned } from '../backup-run.js';
import { observeFailed } from '../methods/failed-disks.js';
import { carryOutInTarget, observeRepairs } from '../repair.js';

/** Carries out by QMP what reconcile decided, until nothing of ours is wrong; returns the VM as it is then. */
export async function repair(client: QmpClient, state: TargetState, vm: VmState): Promise<Repaired> {
  return carriedOut(client, state.target, vm, await observeRepairs(state, vm));
}

/** Ends what a dead run left going on in the VM, where no target is known. */
export async function repairVm(client: QmpClient, vm: VmState): Promise<Repaired> {
  return carriedOut(client, '', vm, reconcileVm(vm));
}

/** Takes fleecing out of the VM again, as far as it is in; returns what may be left for a person, in words. */
export async function takeFleecingOut(client: QmpClient, journal: Journal): Promise<readonly string[]> {
  return carryOutAll(client, '', dismantle({ ...(await inspectVm(client)), journal }));
}

/** Takes away what disks that failed have left, while their run goes on; returns what may be left for a person, in words. */
export async function takeFailedOut(
  client: QmpClient,
  journal: Journal,
  target: { readonly target: string; readonly failed: readonly FailedCopy[] },
  planned: Pick<Planned, 'catalog'>,
): Promise<readonly string[]> {
  const actions = await observeFailed(journal, target, planned, await inspectVm(client));
  return carryOutAll(client, target.target, actions);
}

/** The VM is looked at again only where something was done. */
async function carriedOut(
  client: QmpClient,
  target: string,
  vm: VmState,
  actions: readonly RepairAction[],
): Promise<Repaired> {
  if (actions.length === 0) return { vm, report: { actions, warnings: [] } };
  const warnings = await carryOutAll(client, target, actions);
  return { vm: await inspectVm(client), report: { actions, warnings } };
}

async function carryOutAll(
  client: QmpClient,
  target: string,
  actions: readonly RepairAction[],
): Promise<readonly string[]> {
  const warnings: string[] = [];
  for (const action of actions) await carryOut(client, target, action, warnings);
  return warnings;
}

async function carryOut(client: QmpClient, target: string, action: RepairAction, warnings: string[]): Promise<void> {
  await carryOutInTarget(target, action, warnings);
  await carryOutInVm(client, action, warnings);
}

async function carryOutInVm(client: QmpClient, action: RepairAction, warnings: string[]): Promise<void> {
  switch (action.kind) {
    case 'continue':
      await run(client, 'cont');
      return;
    case 'end-job':
      return endJobs(client, [action.job]);
    case 'remove-export':
      await run(client, 'block-export-del', { id: action.id, mode: 'hard' });
      return;
    case 'stop-nbd-server':
      return stopNbdServer(client);
    case 'take-out-filter':
      return takeOut(client, action, warnings);
    case 'remove-node':
      return removeNode(client, action.node, warnings);
    case 'remove-bitmap':
      return removeBitmap(client, action.node, action.bitmap);
    case 'thaw':
    case 'delete-file':
    case 'delete-folder':
    case 'delete-scratch':
    case 'end-domain':
    case 'remove-journal':
    case 'redefine-checkpoint':
      return;
  }
}

/** A filter that QEMU does not let go does the guest no harm, and must not hold up every backup. */
async function takeOut(client: QmpClient, filter: FilterInPlace, warnings: string[]): Promise<void> {
  try {
    await takeOutFilter(client, filter);
  } catch (error) {
    if (!(error instanceof QmpCommandError)) throw error;
    warnings.push(`the filter ${filter.filter} cannot be taken out of ${filter.qdev}: ${error.desc}`);
  }
}

/** A node that somebody builds on by now (a snapshot above our filter) stays: that must not hold up the backup. */
async function removeNode(client: QmpClient, node: string, warnings: string[]): Promise<void> {
  try {
    await run(client, 'blockdev-del', { 'node-name': node });
  } catch (error) {
    if (!(error instanceof QmpCommandError)) throw error;
    warnings.push(`the block node ${node} of an earlier run cannot be removed: ${error.desc}`);
  }
}
