import { randomBytes } from 'node:crypto';
import type { ReadyVm } from '../../backends/backend.js';
import type { BackupRun, Planned } from '../../backends/backup-run.js';
import type { CopyMethod } from '../../backends/copy-method.js';
import type { VmState } from '../../core/disk.js';
import { withAskedFor } from '../../core/choose-disks.js';
import { isShort } from '../../core/space.js';
import { damageIn } from '../../repository/check-parents.js';
import { planInto } from '../../repository/plan-into.js';
import type { TargetState } from '../../repository/target.js';
import { checkSpace } from './check-space.js';

export interface PlannedRun extends Pick<Planned, 'plan' | 'space'> {
  /** With the disks that were asked for. */
  readonly vm: VmState;
  readonly method: CopyMethod;
}

/** Looks at what the plan needs to know of the target's files, and plans. */
export async function planRun(run: BackupRun, ready: ReadyVm, state: TargetState): Promise<PlannedRun> {
  const { options, context, target, attempt } = run;
  const vm = withAskedFor(ready.vm, options);
  const { bitmapName } = ready;
  const targetId = state.catalog?.targetId ?? randomBytes(8).toString('hex');
  const { plan, parents } = await planInto(state, {
    ...{ request: options, vm, attempt, now: context.now() },
    bitmapName: bitmapName && ((disk) => bitmapName(targetId, disk, attempt)),
  });
  const { catalog } = parents;
  if (catalog) (await damageIn(target, catalog, parents)).forEach(run.warn);
  for (const { code, text, kind, said } of plan.remarks) {
    if (said) run.remind({ code, text }, kind === 'lacks');
    else run.warn({ code, text });
  }
  const { network, ...space } = await checkSpace(run, plan);
  const planned: Planned = { plan, targetId, catalog, space, network };
  const method = await ready.prepare(run, planned, { network, spaceIsShort: isShort(space) });
  context.report({ kind: 'planned', target, plan, fleecing: method.fleecing });
  return { vm, plan, space, method };
}
