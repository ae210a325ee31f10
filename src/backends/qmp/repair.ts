import type { VmState } from '../../core/disk.js';
import type { FailedCopy } from '../../core/failed-copies.js';
import type { Journal } from '../../core/journal.js';
import { onlyBitmaps } from '../../core/journal-parts.js';
import { dismantle, reconcileVm, type RepairAction } from '../../core/reconcile.js';
import { type Warning, warning } from '../../core/warning.js';
import { removeBitmap } from '../../qemu/bitmaps.js';
import { type FilterInPlace, takeOutFilter } from '../../qemu/fleece.js';
import { inspectVm, readJobs } from '../../qemu/inspect.js';
import { endJobs } from '../../qemu/job-watch.js';
import { stopNbdServer } from '../../qemu/nbd-export.js';
import type { QmpClient } from '../../qmp/client.js';
import { run } from '../../qmp/commands.js';
import { QmpCommandError } from '../../qmp/errors.js';
import { writeJournal } from '../../repository/journal-file.js';
import type { TargetState } from '../../repository/target.js';
import type { Repaired } from '../backend.js';
import type { Planned } from '../backup-run.js';
import { observeFailed } from '../methods/failed-disks.js';
import { carryOutInTarget, observeRepairs } from '../repair.js';

/** Carries out by QMP what reconcile decided, until nothing of ours is wrong; returns the VM as it is then. */
export async function repair(client: QmpClient, state: TargetState, vm: VmState): Promise<Repaired> {
  return carriedOut(client, state, vm, await observeRepairs(state, vm));
}

/** Ends what a dead run left going on in the VM, where no target is known. */
export async function repairVm(client: QmpClient, vm: VmState): Promise<Repaired> {
  return carriedOut(client, { target: '', journal: undefined }, vm, reconcileVm(vm));
}

/** Takes fleecing out of the VM again, as far as it is in; returns what may be left for a person, in words. */
export async function takeFleecingOut(client: QmpClient, journal: Journal): Promise<readonly Warning[]> {
  const actions = dismantle({ ...(await inspectVm(client)), journal });
  return (await carryOutAll(client, { target: '', journal }, actions)).warnings;
}

/**
 * Takes away what disks that failed have left, while their run goes on. `disks` are as the transaction has made them: QEMU tells of
 * no disk at all while the storage of one is gone.
 */
export async function takeFailedOut(
  client: QmpClient,
  journal: Journal,
  target: { readonly target: string; readonly failed: readonly FailedCopy[] },
  { catalog, disks }: Pick<Planned, 'catalog'> & Pick<VmState, 'disks'>,
): Promise<CarriedOut> {
  if (target.failed.length === 0) return { done: [], warnings: [], stuck: [] };
  const actions = await observeFailed(journal, target, { catalog }, { disks, jobs: await readJobs(client) });
  return carryOutAll(client, { target: target.target, journal }, actions);
}

/** The VM is looked at again only where something was done. */
async function carriedOut(
  client: QmpClient,
  state: Pick<TargetState, 'target' | 'journal'>,
  vm: VmState,
  actions: readonly RepairAction[],
): Promise<Repaired> {
  if (actions.length === 0) return { vm, report: { actions, warnings: [] } };
  const { done, warnings } = await carryOutAll(client, state, actions);
  return { vm: await inspectVm(client), report: { actions: done, warnings } };
}

export interface CarriedOut {
  readonly done: readonly RepairAction[];
  /** What may be left for a person, in words. */
  readonly warnings: readonly Warning[];
  /** Bitmaps that QEMU does not remove now. */
  readonly stuck: readonly string[];
}

/** A journal stays with just the bitmaps that could not be removed, and the next run tries again. */
async function carryOutAll(
  client: QmpClient,
  { target, journal }: Pick<TargetState, 'target' | 'journal'>,
  actions: readonly RepairAction[],
): Promise<CarriedOut> {
  const done: RepairAction[] = [];
  const warnings: Warning[] = [];
  const stuck: string[] = [];
  for (const action of actions) {
    if (action.kind === 'remove-bitmap') {
      const said = await removeOrSay(client, action);
      if (said !== null) {
        warnings.push(said);
        stuck.push(action.bitmap);
        continue;
      }
    }
    // What a catalog has retired needs no journal.
    const left = journal?.disks.filter(({ bitmap }) => bitmap !== null && stuck.includes(bitmap)) ?? [];
    if (action.kind === 'remove-journal' && journal && left.length > 0) {
      await writeJournal(target, onlyBitmaps(journal, left));
      continue;
    }
    await carryOutInTarget(target, action, warnings);
    await carryOutInVm(client, action, warnings);
    done.push(action);
  }
  return { done, warnings, stuck };
}

/**
 * QEMU reads and writes the image to remove a bitmap that was ever stored there, and refuses where that fails: this must not hold up
 * every backup. Null where it was removed, else what to say.
 */
export async function removeOrSay(
  client: QmpClient,
  { node, bitmap }: Pick<Extract<RepairAction, { kind: 'remove-bitmap' }>, 'node' | 'bitmap'>,
): Promise<Warning | null> {
  try {
    await removeBitmap(client, node, bitmap);
    return null;
  } catch (error) {
    if (!(error instanceof QmpCommandError)) throw error;
    const words = `the bitmap ${bitmap} cannot be removed from the disk with the node ${node} now: ${error.desc}`;
    return warning('bitmap-stuck', `${words}. No point needs it, and the next run tries again`);
  }
}

async function carryOutInVm(client: QmpClient, action: RepairAction, warnings: Warning[]): Promise<void> {
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
    case 'thaw':
    case 'delete-file':
    case 'delete-folder':
    case 'delete-scratch':
    case 'end-domain':
    case 'remove-journal':
    case 'redefine-checkpoint':
    case 'merge-overlay':
    case 'delete-overlay':
      return;
  }
}

/** A filter that QEMU does not let go does the guest no harm, and must not hold up every backup. */
async function takeOut(client: QmpClient, filter: FilterInPlace, warnings: Warning[]): Promise<void> {
  try {
    await takeOutFilter(client, filter);
  } catch (error) {
    if (!(error instanceof QmpCommandError)) throw error;
    warnings.push(
      warning('left-behind', `the filter ${filter.filter} cannot be taken out of ${filter.qdev}: ${error.desc}`),
    );
  }
}

/** A node that somebody builds on by now (a snapshot above our filter) stays: that must not hold up the backup. */
async function removeNode(client: QmpClient, node: string, warnings: Warning[]): Promise<void> {
  try {
    await run(client, 'blockdev-del', { 'node-name': node });
  } catch (error) {
    if (!(error instanceof QmpCommandError)) throw error;
    warnings.push(warning('left-behind', `the block node ${node} of an earlier run cannot be removed: ${error.desc}`));
  }
}
