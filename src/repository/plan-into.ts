import type { VmState } from '../core/disk.js';
import { type KnownSource, matchDisks } from '../core/match-disks.js';
import { type BackupPlan, type PlanRequest, planBackup } from '../core/plan.js';
import { type CheckedParents, checkParents } from './check-parents.js';
import { takenNames, type TargetState } from './target.js';

export interface PlanOptions {
  readonly request: PlanRequest;
  readonly vm: VmState;
  /** The name of a disk's new bitmap; null where none can be added. */
  readonly bitmapName: ((disk: string) => string) | null;
  readonly attempt: string;
  readonly now: Date;
  /** Where the files that the next point would build on were looked at already. */
  readonly parents?: CheckedParents;
}

/**
 * What a backup into a target, as it is now, would do: the one plan, of a run, of a dry run and of `doctor`. Looks at the files
 * that it would build on, and changes nothing.
 *
 * @throws QmpBackupError as `planBackup`
 */
export async function planInto(
  state: TargetState,
  { request, vm, bitmapName, attempt, now, parents: seen }: PlanOptions,
): Promise<{ readonly plan: BackupPlan; readonly known: readonly KnownSource[]; readonly parents: CheckedParents }> {
  const { target, catalog: before } = state;
  const known = matchDisks(before, vm.disks);
  const ids = known.map(({ id }) => id);
  const [files, parents] = await Promise.all([takenNames(state, ids), seen ?? checkParents(target, before, ids)]);
  const { catalog, brokenChains } = parents;
  const nowSeconds = Math.floor(now.getTime() / 1000);
  const plan = planBackup({ request, vm, known, catalog, bitmapName, attempt, nowSeconds, files, brokenChains });
  return { plan, known, parents };
}
