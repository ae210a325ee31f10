import { randomBytes } from 'node:crypto';
import type { ReadyVm } from '../../backends/backend.js';
import type { BackupRun, Planned } from '../../backends/backup-run.js';
import type { CopyMethod } from '../../backends/copy-method.js';
import { chainBelow } from '../../backends/methods/chain-below.js';
import type { VmState } from '../../core/disk.js';
import { withAskedFor } from '../../core/choose-disks.js';
import type { BackupPlan, PlannedDisk } from '../../core/plan.js';
import { isRefused, isShort, type SpaceNeed, spaceInWords } from '../../core/space.js';
import { warning } from '../../core/warning.js';
import { damageIn } from '../../repository/check-parents.js';
import { planInto, type PlanOptions } from '../../repository/plan-into.js';
import type { TargetState } from '../../repository/target.js';
import { checkSpace, measureSpace } from './check-space.js';

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
  const into: PlanOptions = {
    ...{ request: options, vm, attempt, now: context.now() },
    bitmapName: bitmapName && ((disk) => bitmapName(targetId, disk, attempt)),
  };
  const due = await planProved(run, state, into);
  const { parents } = due;
  const plan = await planWithSpace(run, due.plan, async () => {
    const goesOn = await planInto(state, { ...into, request: { ...options, chainLimits: [] }, parents });
    return goesOn.plan;
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

/**
 * The plan, where what its disks are to be compared with can be read: damaged tables of a parent tell wrong places, and are found
 * before anything begins. Rotten data is found, and healed, on the way.
 */
async function planProved(
  { target, signal }: BackupRun,
  state: TargetState,
  into: PlanOptions,
): Promise<Awaited<ReturnType<typeof planInto>>> {
  const planned = await planInto(state, into);
  const { parents, plan } = planned;
  const brokenChains = new Map(parents.brokenChains);
  for (const disk of plan.disks) {
    const unusable = disk.parent && (await whyNotComparable(target, parents, disk, signal));
    if (disk.parent && unusable) brokenChains.set(`${disk.disk}/${disk.parent.file}`, unusable);
  }
  if (brokenChains.size === parents.brokenChains.size) return planned;
  return planInto(state, { ...into, parents: { ...parents, brokenChains } });
}

/** In words; undefined where it can be compared, or is not to be. */
async function whyNotComparable(
  target: string,
  parents: Pick<Planned, 'catalog'>,
  disk: PlannedDisk,
  signal: AbortSignal,
): Promise<string | undefined> {
  const chain = chainBelow(target, parents, disk);
  if (chain === null) return undefined;
  const { ParentProver } = await import('../../repository/prove-parent.js');
  const prover = await ParentProver.open(chain, signal);
  try {
    const found = await prover.whyUnusable();
    return found && `${found.file}: ${found.fault.why}`;
  } finally {
    await prover.close();
  }
}

/**
 * A FULL that is due by `--auto-full-after`, and has no space, waits where the chain can go on by an increment: nobody may be there to make
 * space, and a longer chain is worth more than no point. Where the increment has no space either, or is a FULL itself, the one
 * that is due is refused.
 */
async function planWithSpace(
  run: BackupRun,
  due: BackupPlan,
  planToGoOn: () => Promise<BackupPlan>,
): Promise<BackupPlan> {
  if (run.options.level !== 'auto' || !due.beginsChain) return due;
  const isTooLarge = (space: SpaceNeed): boolean => isRefused(space, run.options);
  const space = await measureSpace(run, due);
  if (!isTooLarge(space)) return due;
  const goesOn = await planToGoOn();
  if (goesOn.level !== 'inc' || isTooLarge(await measureSpace(run, goesOn))) return due;
  const why = due.disks[0]?.reason ?? 'the chain is long enough';
  const words = `a FULL is due (${why}) and there is too little space for it: it can need ${spaceInWords(space)}`;
  run.warn(warning('full-postponed', `${words}. The chain goes on with an increment until there is`));
  return goesOn;
}
