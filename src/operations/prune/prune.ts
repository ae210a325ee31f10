import { resolve } from 'node:path';
import { contextOf } from '../../backends/verb-context.js';
import type { VmIdentity } from '../../core/identity.js';
import type { Warn } from '../../core/warning.js';
import type { QmpBackupError } from '../../errors.js';
import { unwinding } from '../../flow/unwind.js';
import { eachHistory, throughHistories } from '../../repository/histories.js';
import { vmFolder } from '../../repository/vm-folder.js';
import { FreeSpaceOfTargets } from './keep-free.js';
import { type PruneOptions, pruneOptions, type PruneRequest } from './options.js';
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
  const found = await eachHistory(options.label === null ? root : await vmFolder(root, options.label));
  const space = new FreeSpaceOfTargets(signal);
  const run: PruneRun = { options, signal, now, warn, onEvent: report, space };
  const histories = await throughHistories(found, signal, {
    left: notPruned,
    work: async (history) => {
      const pruned = await unwinding((unwind) => pruneHistory(history, run, unwind));
      const targets = history.targets.map(({ target }) => target);
      if (options.dryRun) space.promise(targets, pruned.freed);
      return pruned;
    },
  });
  return { histories: await withMissing(histories, options, space), dryRun: options.dryRun };
}

/** What one VM could not free the next one may have freed: it is told when all are done. */
function withMissing(
  histories: readonly PrunedHistory[],
  { keepFree }: PruneOptions,
  space: FreeSpaceOfTargets,
): Promise<readonly PrunedHistory[]> {
  return Promise.all(
    histories.map(async (history) => {
      if (keepFree === null || history.failed) return history;
      const missing = keepFree - (await space.free(history.targets));
      return missing > 0 ? { ...history, missing } : history;
    }),
  );
}

function notPruned(vm: VmIdentity, targets: readonly string[], failed: QmpBackupError): PrunedHistory {
  return { vm, targets, points: [], removed: [], freed: 0, missing: null, failed };
}
