import { messageOf } from '../../errors.js';
import { readTarget, type TargetState } from '../../repository/target.js';
import type { BackupRun } from '../backup-run.js';

/**
 * The undo of a failed attempt is the repair that the next run would make; where it cannot be made now, that one does it
 * by the journal. `thawed`: nothing is frozen by this run, so that a guest which somebody else has frozen stays so. Resolves to
 * what the run has failed with.
 */
export async function undoAttempt(
  run: BackupRun,
  error: unknown,
  { thawed }: { readonly thawed: boolean },
  undo: (target: TargetState) => Promise<void>,
): Promise<unknown> {
  // What hangs cannot be undone; and QEMU would hang too if it were asked for the nodes of a target that hangs.
  if (run.watch.givenUp.aborted) return run.watch.givenUp.reason;
  try {
    const state = await readTarget(run.target, run.options.monthly);
    const journal = state.journal && thawed ? { ...state.journal, freezes: null } : state.journal;
    await undo({ ...state, journal });
  } catch (failure) {
    run.warn(`the run could not be undone now (${messageOf(failure)}); the next run does it by the journal`);
  }
  return error;
}
