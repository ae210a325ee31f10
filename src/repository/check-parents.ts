import type { Catalog } from '../core/catalog.js';
import { chainOf, currentChain, latestFile, latestFull, latestTracked, withModificationTimes } from '../core/chain.js';
import { damageInWords, damageOf, recordedFiles } from '../core/damage.js';
import { fileKey, rememberedDamage } from '../core/verified.js';
import type { Warning } from '../core/warning.js';
import { checkChain } from './chain-check.js';
import { filesAmiss, isUntouched } from './file-state.js';
import { healedStates } from './shadowed.js';
import { readMemory, type VerifyMemory } from './verified-file.js';

/** In words, what the files of the target that are gone, altered or were found damaged cost, those of older chains too. */
export async function damageIn(
  target: string,
  catalog: Catalog,
  { untouched, memory: { known, warnings } }: Pick<CheckedParents, 'untouched' | 'memory'>,
): Promise<readonly Warning[]> {
  const amiss = await filesAmiss(target, recordedFiles(catalog), untouched);
  const all = new Map([...rememberedDamage(known), ...amiss]);
  const healed = await healedStates(target, catalog, all);
  return [...warnings, ...damageInWords(catalog, damageOf(catalog, all, healed))];
}

/** Looks at the files that each would-be parent of `disks` needs. */
export async function checkParents(
  target: string,
  catalog: Catalog | undefined,
  disks: readonly string[],
): Promise<CheckedParents> {
  const brokenChains = new Map<string, string>();
  const untouched = new Set<string>();
  const memory = catalog ? await readMemory(target, catalog) : NOTHING_KNOWN;
  const chain = currentChain(catalog);
  if (!catalog || chain === undefined) return { brokenChains: brokenChains, catalog, untouched, memory };
  const times = new Map<string, number>();
  const found = rememberedDamage(memory.known);
  const parents = disks.flatMap((id) =>
    [latestTracked, latestFull, latestFile].map((which) => which(catalog, id, chain)),
  );
  await Promise.all(
    [...new Set(parents)].map(async (parent) => {
      if (!parent) return;
      const key = `${parent.disk}/${parent.file}`;
      const { files, fault } = chainOf(catalog, parent);
      if (fault) return void brokenChains.set(key, fault.why);
      const damaged = files.find((each) => found.has(fileKey(each)));
      if (damaged) {
        return void brokenChains.set(key, `${damaged.file}: ${found.get(fileKey(damaged))?.why}`);
      }
      if (await isUntouched(target, files)) {
        for (const { disk, file } of files) untouched.add(`${disk}/${file}`);
        return;
      }
      const { findings, refreshed } = await checkChain(target, files);
      const [first] = findings;
      if (first) return void brokenChains.set(key, `${first.file}: ${first.why}`);
      for (const { file, mtimeMs } of refreshed) times.set(`${parent.disk}/${file}`, mtimeMs);
    }),
  );
  return {
    brokenChains: brokenChains,
    catalog: times.size > 0 ? withModificationTimes(catalog, times) : catalog,
    untouched,
    memory,
  };
}

export interface CheckedParents {
  /** Why a would-be parent cannot be built on, by `<disk>/<file>`. */
  readonly brokenChains: ReadonlyMap<string, string>;
  /** With the new times of files that were copied and hold the same bytes: they are not hashed again. */
  readonly catalog: Catalog | undefined;
  /** Files that were looked at and are as recorded, `<disk>/<file>`. */
  readonly untouched: ReadonlySet<string>;
  /** What `verify` has found before. */
  readonly memory: VerifyMemory;
}

const NOTHING_KNOWN: VerifyMemory = { known: new Map(), boots: [], warnings: [] };
