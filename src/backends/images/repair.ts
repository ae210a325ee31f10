import type { VmState } from '../../core/disk.js';
import type { Journal } from '../../core/journal.js';
import type { RepairAction } from '../../core/reconcile.js';
import { writeJournal } from '../../repository/journal-file.js';
import type { TargetState } from '../../repository/target.js';
import { carryOutInTarget, observeRepairs, type RepairReport } from '../repair.js';

/** What a dead run left and what can be taken away while the VM is off: all but its bitmaps, for images are only read. */
export async function observeOfflineRepairs(target: TargetState, vm: VmState): Promise<readonly RepairAction[]> {
  return (await observeRepairs(target, vm)).filter(({ kind }) => POSSIBLE.includes(kind));
}

const POSSIBLE: readonly RepairAction['kind'][] = ['delete-file', 'delete-folder', 'delete-scratch', 'remove-journal'];

/** Bitmaps that a dead run may have left in the images stay in its journal: the next run of the running VM removes them. */
export async function repairOffline(target: TargetState, vm: VmState): Promise<RepairReport> {
  const all = await observeOfflineRepairs(target, vm);
  const left = bitmapsOfDead(target);
  const actions = left.length > 0 ? all.filter(({ kind }) => kind !== 'remove-journal') : all;
  const warnings: string[] = [];
  for (const action of actions) await carryOutInTarget(target.target, action, warnings);
  if (left.length > 0 && target.journal) {
    await writeJournal(target.target, onlyBitmaps(target.journal, left));
  }
  return { actions, warnings };
}

/** A journal of which nothing is left to be done but to remove these bitmaps. */
export function onlyBitmaps(journal: Journal, disks: Journal['disks']): Journal {
  return { ...journal, madeFolders: [], freezes: null, stops: false, scratch: [], servesNbd: false, disks };
}

/** The journal's word for the bitmaps of a run that died before its point was sealed. */
export function bitmapsOfDead({ journal, catalog }: Pick<TargetState, 'journal' | 'catalog'>): Journal['disks'] {
  if (!journal || catalog?.points.some(({ id }) => id === journal.attempt)) return [];
  return journal.disks.filter(({ bitmap }) => bitmap !== null);
}
