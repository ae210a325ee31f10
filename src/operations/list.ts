import { resolve } from 'node:path';
import type { Catalog } from '../core/catalog.js';
import { backingChainOf } from '../core/chain.js';
import { type Damage, damageInWords, damageOf, recordedFiles } from '../core/damage.js';
import { DEFINITION_FOLDER } from '../core/names.js';
import type { Point } from '../core/point.js';
import { whyNotRestorable } from '../core/restore-plan.js';
import { readCatalog, requireCatalog } from '../repository/catalog-file.js';
import { filesAmiss } from '../repository/file-state.js';
import { catalogsBelow } from '../repository/layout.js';

/** What a target holds: chains and points, the size of each and what it needs. Reads the catalog, and looks at the files. */
export interface ListedPoint {
  readonly point: Point;
  /** Files that the point needs, `<disk>/<file>`, itself included. */
  readonly needs: readonly string[];
  /** Why it cannot be restored as a whole, or null. */
  readonly notWhole: string | null;
  /** Files that it needs and that are gone or have another size. */
  readonly damaged: readonly Damage[];
  /** Disks whose content may be wrong although all is whole, with the file that says so: see `suspect` in the catalog. */
  readonly suspect: readonly { readonly disk: string; readonly file: string; readonly why: string }[];
}

export interface ListedTarget {
  readonly target: string;
  readonly vm: Catalog['vm'];
  readonly targetId: string;
  readonly points: readonly ListedPoint[];
  /** What files that are gone or altered cost, in words. */
  readonly warnings: readonly string[];
}

/** The target itself, or every target in the folders below it (as `--monthly` makes them). */
export async function list(target: string): Promise<readonly ListedTarget[]> {
  const root = resolve(target);
  const folders = (await readCatalog(root)) ? [root] : await catalogsBelow(root);
  if (folders.length === 0) await requireCatalog(root);
  return Promise.all(folders.map(async (folder) => listed(folder, await requireCatalog(folder))));
}

async function listed(target: string, catalog: Catalog): Promise<ListedTarget> {
  const damage = damageOf(catalog, await filesAmiss(target, recordedFiles(catalog)));
  const points = catalog.points.map((point) => {
    const files = point.disks.flatMap((entry) => {
      const line = entry.state === 'merged' ? undefined : backingChainOf(catalog, entry);
      return line && 'files' in line ? line.files : [];
    });
    const needs = files.map(({ disk, file }) => `${disk}/${file}`);
    const suspect = files.flatMap(({ disk, file, suspect: why }) => (why === undefined ? [] : [{ disk, file, why }]));
    const damaged = damage.get(point) ?? [];
    const [gone] = damaged.filter(({ disk }) => disk !== DEFINITION_FOLDER);
    const reasons = point.disks.map((entry) => whyNotRestorable(catalog, entry));
    const notWhole = reasons.find((reason) => reason !== undefined) ?? (gone ? `${gone.file}: ${gone.why}` : null);
    return { point, needs, notWhole, damaged, suspect };
  });
  return { target, vm: catalog.vm, targetId: catalog.targetId, points, warnings: damageInWords(catalog, damage) };
}
