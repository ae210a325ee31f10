import { basename, dirname } from 'node:path';
import type { Catalog } from '../core/catalog.js';
import type { VmIdentity } from '../core/identity.js';
import { readCatalog, requireCatalog } from './catalog-file.js';
import { catalogsBelow, isMonth } from './layout.js';

/** Targets whose points are one line of time: a target, or the months that `--monthly` has made of one VM. */
export interface History {
  readonly vm: VmIdentity;
  /** Oldest first. */
  readonly targets: readonly { readonly target: string; readonly catalog: Catalog }[];
}

/**
 * The histories in a folder: it is a target, or has several below.
 *
 * @throws QmpBackupError as `requireCatalog`
 */
export async function historiesIn(root: string): Promise<readonly History[]> {
  const folders = (await readCatalog(root)) ? [root] : await catalogsBelow(root);
  if (folders.length === 0) await requireCatalog(root);
  const targets = await Promise.all(folders.map(async (target) => ({ target, catalog: await requireCatalog(target) })));
  const histories = new Map<string, History>();
  for (const each of targets) {
    const key = historyOf(each.target, each.catalog);
    const before = histories.get(key)?.targets ?? [];
    // The newest month tells best which VM it is.
    histories.set(key, { vm: each.catalog.vm, targets: [...before, each] });
  }
  return [...histories.values()];
}

/** Earlier versions had VMs with similar names meet in one folder. */
function historyOf(target: string, { vm }: Catalog): string {
  return isMonth(basename(target)) ? JSON.stringify([dirname(target), vm.uuid ?? vm.label ?? vm.name]) : target;
}
