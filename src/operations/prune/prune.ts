import { resolve } from 'node:path';
import { contextOf } from '../../backends/verb-context.js';
import type { Warn } from '../../core/warning.js';
import { QmpBackupError } from '../../errors.js';
import { unwinding } from '../../flow/unwind.js';
import { historiesIn, type History } from '../../repository/histories.js';
import { vmFolder } from '../../repository/vm-folder.js';
import { pruneOptions, type PruneRequest } from './options.js';
import { pruneHistory } from './prune-history.js';
import type { PruneContext, PrunedHistory, PruneResult, PruneRun } from './request.js';

/**
 * Drops the points that no rule keeps, of each VM in a folder apart. Without
 * `consolidate` no byte of a file that is kept is written. Any step may be
 * the last of a run that is killed: what is in the catalog can be restored, and the next run removes the rest.
 *
 * @throws QmpBackupError `usage`, `no-catalog`; of a single VM `locked`, also where somebody has a dropped file open, and
 * `unsafe` where a rebase is half done
 */
export async function prune(request: PruneRequest, given: Partial<PruneContext> = {}): Promise<PruneResult> {
  const [options, context] = [pruneOptions(request), contextOf(given)];
  const warn: Warn = (said) => context.report({ kind: 'warning', ...said });
  const { signal, now, report } = context;
  signal.throwIfAborted();
  const root = resolve(options.target);
  const found = await historiesIn(options.label === null ? root : await vmFolder(root, options.label));
  const run: PruneRun = { options, signal, now, warn, onEvent: report };
  const histories: PrunedHistory[] = [];
  for (const history of found) {
    signal.throwIfAborted();
    const one = unwinding((unwind) => pruneHistory(history, run, unwind));
    histories.push(await (found.length === 1 ? one : one.catch((error: unknown) => notPruned(history, error))));
  }
  return { histories, dryRun: options.dryRun };
}

/** One that another run has, or that is not as it should be, holds no other up. */
function notPruned({ vm, targets }: History, error: unknown): PrunedHistory {
  if (!(error instanceof QmpBackupError) || error.code === 'interrupted') throw error;
  return {
    ...{ vm, targets: targets.map(({ target }) => target), points: [], removed: [], freed: 0, missing: null },
    failed: error,
  };
}
