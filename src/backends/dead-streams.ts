import type { VmState } from '../core/disk.js';
import type { Journal } from '../core/journal.js';
import { isWithoutVm } from '../core/reconcile.js';
import { type Warn, warning } from '../core/warning.js';
import { messageOf, QmpBackupError } from '../errors.js';
import { isThere } from '../host/is-there.js';
import { type Lock, lockTarget } from '../repository/lock.js';
import { deadStreamFolders, removeStreamFolder } from '../repository/stream-folder.js';
import { readTarget, type TargetState } from '../repository/target.js';
import type { Repaired } from './backend.js';

/** A VM whose lock is held. */
export interface SweptVm {
  readonly uuid: string | null;
  /** Of one that is reached by QMP: its monitor, as a journal has it. */
  readonly monitor: string | null;
}

export const LEFT_BY_STREAM = 'a stream that died has left something';

/** Streams that died while they read this VM, or a VM that was off: nothing of these is in any QEMU. Changes nothing. */
export async function deadStreams(vm: SweptVm, warn: Warn): Promise<readonly TargetState[]> {
  const states: TargetState[] = [];
  for (const folder of await deadStreamFolders()) {
    try {
      const state = await readTarget(folder, false);
      if (!state.journal || isWithoutVm(state.journal) || isOf(state.journal, vm)) states.push(state);
    } catch (error) {
      warn(warning('left-behind', `${LEFT_BY_STREAM} in ${folder}: ${messageOf(error)}`));
    }
  }
  return states;
}

function isOf({ vm, owner }: Journal, seen: SweptVm): boolean {
  if (vm.uuid !== null && seen.uuid !== null) return vm.uuid === seen.uuid;
  return owner.kind === 'monitor' && owner.endpoint === seen.monitor;
}

export interface SweptStream extends Repaired {
  readonly stream: TargetState;
}

/** Puts right what they have left, by the repair that every run begins with, and removes their folders. */
export async function sweepStreams(
  swept: SweptVm,
  seen: VmState,
  repair: (target: TargetState, vm: VmState) => Promise<Repaired>,
  warn: Warn,
): Promise<{ readonly vm: VmState; readonly streams: readonly SweptStream[] }> {
  const streams: SweptStream[] = [];
  let vm = seen;
  for (const { target: folder } of await deadStreams(swept, warn)) {
    const lock = await lockOrLeave(folder, warn);
    if (!lock) continue;
    try {
      const stream = await readTarget(folder, false);
      const done = await repair(stream, vm);
      done.report.warnings.forEach(warn);
      streams.push({ ...done, stream });
      vm = done.vm;
      // What cannot be put right now stays in its journal, for the next run.
      if (!(await readTarget(folder, false)).journal) await removeStreamFolder(folder);
    } finally {
      await lock.release();
    }
  }
  return { vm, streams };
}

/** Null where another run is at it, or was: what belongs to no VM any run takes away. */
async function lockOrLeave(folder: string, warn: Warn): Promise<Lock | null> {
  try {
    return await lockTarget(folder, { breakLock: false, purpose: `repair of ${folder}` });
  } catch (error) {
    if (!(error instanceof QmpBackupError)) throw error;
    const isTaken = error.code === 'locked' || !(await isThere(folder));
    if (!isTaken) warn(warning('left-behind', `${LEFT_BY_STREAM} in ${folder}: ${messageOf(error)}`));
    return null;
  }
}
