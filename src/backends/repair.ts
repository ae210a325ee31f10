import { rm, rmdir } from 'node:fs/promises';
import type { VmState } from '../core/disk.js';
import type { FrozenGuest } from '../core/journal.js';
import { reconcile, type RepairAction } from '../core/reconcile.js';
import { virshCommand } from '../core/virsh-hint.js';
import { type Warning, warning } from '../core/warning.js';
import { messageOf } from '../errors.js';
import { GuestAgentError, GuestNotThawed, thawAgentByHand } from '../guest-agent/errors.js';
import { thawNow } from '../guest-agent/thaw.js';
import { syncFolder } from '../host/durable.js';
import { fileError } from '../host/file-errors.js';
import { parseEndpoint } from '../qmp/endpoint.js';
import { guardFile, removeGuardFile } from '../repository/guard-file.js';
import { removeJournal } from '../repository/journal-file.js';
import { diskFolder, filePath } from '../repository/layout.js';
import { removeScratch } from '../repository/scratch.js';
import { listFiles, type TargetState } from '../repository/target.js';

/**
 * What reconcile decides is to be done after a dead run, and as the undo of a run that failed; and its part that is the
 * same whichever way leads to the VM.
 */
export interface RepairReport {
  readonly actions: readonly RepairAction[];
  /** What could not be done and may be left for a person, in words. */
  readonly warnings: readonly Warning[];
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

/** What of an action needs no monitor. */
export async function carryOutInTarget(target: string, action: RepairAction, warnings: Warning[]): Promise<void> {
  switch (action.kind) {
    case 'thaw':
      return thaw(action.guest, warnings);
    case 'delete-file':
      await remove(filePath(target, action.disk, action.file));
      return syncFolder(diskFolder(target, action.disk));
    case 'delete-folder':
      return removeIfEmpty(diskFolder(target, action.disk));
    case 'remove-journal':
      await removeGuardFile(guardFile(target));
      return removeJournal(target);
    case 'delete-scratch':
      return removeScratch(action.folder).catch((error: unknown) => {
        // What cannot be removed takes up space, but must not hold up every backup.
        warnings.push(
          warning(
            'left-behind',
            `scratch images of fleecing are left behind: ${messageOf(error)}; remove them by hand`,
          ),
        );
      });
    case 'continue':
    case 'end-job':
    case 'remove-export':
    case 'stop-nbd-server':
    case 'take-out-filter':
    case 'remove-node':
    case 'remove-bitmap':
    case 'redefine-checkpoint':
    case 'merge-overlay':
    case 'delete-overlay':
    case 'end-domain':
      return;
  }
}

/**
 * A guest that was rebooted since, or whose agent is gone for good, is not frozen by us any more: an agent that cannot
 * be asked must not hold up every backup.
 */
async function thaw(guest: FrozenGuest, warnings: Warning[]): Promise<void> {
  if (guest.kind === 'domain') {
    warnings.push(
      warning(
        'guest-frozen',
        `an earlier run may have left the guest frozen. If it hangs, thaw it: ${virshCommand(null, 'domfsthaw', guest.uuid)}`,
      ),
    );
    return;
  }
  const agent = parseEndpoint(guest.endpoint);
  try {
    await thawNow(agent, { timeoutMs: 5_000 });
  } catch (error) {
    // The agent says frozen and does not thaw: nothing may go on, and the journal has to stay.
    if (error instanceof GuestNotThawed && !(error.cause instanceof GuestAgentError)) throw error;
    const why = messageOf(error instanceof GuestNotThawed ? error.cause : error);
    const words = `an earlier run may have left the guest frozen, and its agent cannot be asked: ${why}`;
    warnings.push(warning('guest-frozen', `${words}. If the guest hangs, thaw it: ${thawAgentByHand(agent)}`));
  }
}

async function remove(path: string): Promise<void> {
  try {
    await rm(path, { force: true });
  } catch (error) {
    throw fileError('remove', path, error);
  }
}

async function removeIfEmpty(folder: string): Promise<void> {
  try {
    await rmdir(folder);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOENT' && code !== 'ENOTEMPTY' && code !== 'EEXIST') throw fileError('remove', folder, error);
  }
}
