import { rm, rmdir } from 'node:fs/promises';
import type { Journal } from '../../domain/catalog.js';
import type { VmState } from '../../domain/disk.js';
import { dismantle, reconcile, reconcileVm, type RepairAction } from '../../domain/reconcile.js';
import { messageOf } from '../../errors.js';
import { GuestAgentError, GuestNotThawed, thawByHand } from '../../guest-agent/errors.js';
import { inspectVm } from '../../qemu/inspect.js';
import { removeBitmap } from '../../qemu/bitmaps.js';
import { type FilterInPlace, takeOutFilter } from '../../qemu/fleece.js';
import { endJobs } from '../../qemu/job-watch.js';
import { stopNbdServer } from '../../qemu/nbd-export.js';
import type { QmpClient } from '../../qmp/client.js';
import { run } from '../../qmp/commands.js';
import { parseEndpoint } from '../../qmp/endpoint.js';
import { QmpCommandError } from '../../qmp/errors.js';
import { removeJournal } from '../../repository/journal-file.js';
import { diskFolder, filePath } from '../../repository/layout.js';
import { removeScratch } from '../../repository/scratch.js';
import { syncFolder } from '../../repository/durable.js';
import { listFiles, type TargetState } from '../target/open-target.js';

/** Carries out what reconcile decided: after a dead run, and as the undo of a run that failed. */
export interface RepairReport {
  readonly actions: readonly RepairAction[];
  /** What could not be done and may be left for a person, in words. */
  readonly warnings: readonly string[];
}

export type RepairableVm = Pick<VmState, 'disks' | 'jobs' | 'status' | 'ownNodes' | 'ownExports'>;

export async function observeRepairs(state: TargetState, vm: RepairableVm): Promise<readonly RepairAction[]> {
  const files = await listFiles(state.target, state.journal?.disks.map(({ disk }) => disk) ?? []);
  return reconcile({
    ...state,
    sources: vm.disks,
    jobs: vm.jobs,
    ownNodes: vm.ownNodes,
    ownExports: vm.ownExports,
    status: vm.status,
    files,
  });
}

/** Repairs until nothing of ours is wrong; returns the VM as it is then. */
export async function repair(
  client: QmpClient,
  state: TargetState,
  vm: VmState,
): Promise<{ readonly vm: VmState; readonly report: RepairReport }> {
  return carriedOut(client, state.target, vm, await observeRepairs(state, vm));
}

/** Ends what a dead run left going on in the VM, where no target is known. */
export async function repairVm(
  client: QmpClient,
  vm: VmState,
): Promise<{ readonly vm: VmState; readonly report: RepairReport }> {
  return carriedOut(client, '', vm, reconcileVm(vm));
}

/** Takes fleecing out of the VM again, as far as it is in; returns what may be left for a person, in words. */
export async function takeFleecingOut(client: QmpClient, journal: Journal): Promise<readonly string[]> {
  return carryOutAll(client, '', dismantle({ ...(await inspectVm(client)), journal }));
}

/** The VM is looked at again only where something was done. */
async function carriedOut(
  client: QmpClient,
  target: string,
  vm: VmState,
  actions: readonly RepairAction[],
): Promise<{ readonly vm: VmState; readonly report: RepairReport }> {
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

/** What of an action needs no monitor. */
export async function carryOutInTarget(target: string, action: RepairAction, warnings: string[]): Promise<void> {
  switch (action.kind) {
    case 'thaw':
      return thaw(action.agent, warnings);
    case 'delete-file':
      await rm(filePath(target, action.disk, action.file), { force: true });
      return syncFolder(diskFolder(target, action.disk));
    case 'delete-folder':
      return removeIfEmpty(diskFolder(target, action.disk));
    case 'remove-journal':
      return removeJournal(target);
    case 'delete-scratch':
      return removeScratch(action.folder).catch((error: unknown) => {
        // What cannot be removed takes up space, but must not hold up every backup.
        warnings.push(`scratch images of fleecing are left behind: ${messageOf(error)}; remove them by hand`);
      });
    case 'continue':
    case 'end-job':
    case 'remove-export':
    case 'stop-nbd-server':
    case 'take-out-filter':
    case 'remove-node':
    case 'remove-bitmap':
    case 'redefine-checkpoint':
    case 'end-domain':
      return;
  }
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

/** A journal's word for a guest that was frozen through libvirt, before the domain's UUID. */
export const LIBVIRT = 'libvirt:';

/**
 * A guest that was rebooted since, or whose agent is gone for good, is not frozen by us any more: an agent that cannot
 * be asked must not hold up every backup.
 */
async function thaw(agent: string, warnings: string[]): Promise<void> {
  if (agent.startsWith(LIBVIRT)) {
    const domain = agent.slice(LIBVIRT.length);
    warnings.push(`an earlier run may have left the guest frozen. If it hangs, thaw it: virsh domfsthaw ${domain}`);
    return;
  }
  try {
    const { thawNow } = await import('../../guest-agent/thaw.js');
    await thawNow(parseEndpoint(agent), { timeoutMs: 5_000 });
  } catch (error) {
    // The agent says frozen and does not thaw: nothing may go on, and the journal has to stay.
    if (error instanceof GuestNotThawed && !(error.cause instanceof GuestAgentError)) throw error;
    const why = messageOf(error instanceof GuestNotThawed ? error.cause : error);
    const words = `an earlier run may have left the guest frozen, and its agent cannot be asked: ${why}`;
    warnings.push(`${words}. If the guest hangs, thaw it: ${thawByHand(parseEndpoint(agent))}`);
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

async function removeIfEmpty(folder: string): Promise<void> {
  try {
    await rmdir(folder);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOENT' && code !== 'ENOTEMPTY' && code !== 'EEXIST') throw error;
  }
}
