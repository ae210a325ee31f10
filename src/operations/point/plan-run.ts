import { randomBytes } from 'node:crypto';
import type { Catalog } from '../../domain/catalog.js';
import { currentChain, latestFull, latestTracked, lineOf, withModificationTimes } from '../../domain/chain.js';
import { damageInWords, damageOf, recordedFiles } from '../../domain/damage.js';
import type { VmState } from '../../domain/disk.js';
import { type BackupPlan, planBackup } from '../../domain/plan.js';
import { recognise } from '../../domain/recognise.js';
import type { SpaceNeed } from '../../domain/space.js';
import { checkLine, filesAmiss, isUntouched } from '../../repository/file-state.js';
import type { BackupRun } from './backup-run.js';
import { checkSpace } from './check-space.js';
import { listFiles, type TargetState } from '../target/open-target.js';
import type { Prepared, Route } from './route.js';

/** Looks at what the plan needs to know of the target's files, and plans. */
export interface Planned {
  readonly plan: BackupPlan;
  readonly targetId: string;
  readonly catalog: Catalog | undefined;
  readonly space: SpaceNeed;
  /** The target is on a file system that may hang. */
  readonly network: boolean;
}

export async function planRun(
  run: BackupRun,
  route: Route,
  state: TargetState,
  vm: VmState,
): Promise<Planned & Prepared> {
  const { options, context, target, attempt } = run;
  const { bitmapName } = route;
  const targetId = state.catalog?.targetId ?? randomBytes(8).toString('hex');
  const known = recognise(state.catalog, vm.disks);
  const [files, { brokenLines, catalog, untouched }] = await Promise.all([
    listFiles(
      target,
      known.map(({ id }) => id),
    ),
    checkParents(
      target,
      state.catalog,
      known.map(({ id }) => id),
    ),
  ]);
  const plan = planBackup({
    request: options,
    vm,
    known,
    catalog,
    bitmapName: bitmapName && ((disk) => bitmapName(targetId, disk, attempt)),
    attempt,
    nowSeconds: Math.floor(context.now().getTime() / 1000),
    files,
    brokenLines,
  });
  if (catalog) (await damageIn(target, catalog, untouched)).forEach(run.warn);
  for (const { text, kind, said } of plan.remarks) {
    if (said) run.remind(text, kind === 'lacks');
    else run.warn(text);
  }
  const { network, ...space } = await checkSpace(run, plan);
  const spaceIsShort = space.free - space.need < 2 * space.reserve;
  const planned: Planned = { plan, targetId, catalog, space, network };
  const prepared = await route.prepare(run, planned, { network, spaceIsShort });
  context.report({ kind: 'planned', target, plan, fleecing: prepared.fleecing });
  return { ...planned, ...prepared };
}

export interface CheckedParents {
  /** Why a would-be parent cannot be built on, by `<disk>/<file>`. */
  readonly brokenLines: ReadonlyMap<string, string>;
  /** With the new times of files that were copied and hold the same bytes: they are not hashed again. */
  readonly catalog: Catalog | undefined;
  /** Files that were looked at and are as recorded, `<disk>/<file>`. */
  readonly untouched: ReadonlySet<string>;
}

/** Looks at the files that each would-be parent of `disks` needs. */
export async function checkParents(
  target: string,
  catalog: Catalog | undefined,
  disks: readonly string[],
): Promise<CheckedParents> {
  const brokenLines = new Map<string, string>();
  const untouched = new Set<string>();
  const chain = currentChain(catalog);
  if (!catalog || chain === undefined) return { brokenLines, catalog, untouched };
  const times = new Map<string, number>();
  const parents = disks.flatMap((id) => [latestTracked(catalog, id, chain), latestFull(catalog, id, chain)]);
  await Promise.all(
    [...new Set(parents)].map(async (parent) => {
      if (!parent) return;
      const key = `${parent.disk}/${parent.file}`;
      const line = lineOf(catalog, parent);
      if ('missing' in line) return void brokenLines.set(key, `${line.missing} is missing`);
      const merging = line.files.find(({ state }) => state === 'merging');
      if (merging) return void brokenLines.set(key, `a rebase of ${merging.file} was interrupted`);
      if (await isUntouched(target, line.files)) {
        for (const { disk, file } of line.files) untouched.add(`${disk}/${file}`);
        return;
      }
      const checked = await checkLine(target, line.files);
      if (!checked.ok) return void brokenLines.set(key, `${checked.file}: ${checked.why}`);
      for (const { file, mtimeMs } of checked.refreshed) times.set(`${parent.disk}/${file}`, mtimeMs);
    }),
  );
  return { brokenLines, catalog: times.size > 0 ? withModificationTimes(catalog, times) : catalog, untouched };
}

/** In words, what the files of the target that are gone or altered cost, those of older chains too. */
export async function damageIn(
  target: string,
  catalog: Catalog,
  untouched: ReadonlySet<string>,
): Promise<readonly string[]> {
  return damageInWords(catalog, damageOf(catalog, await filesAmiss(target, recordedFiles(catalog), untouched)));
}
