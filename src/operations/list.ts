import { resolve } from 'node:path';
import type { Catalog, Point } from '../domain/catalog.js';
import { lineOf } from '../domain/chain.js';
import { whyNotRestorable } from '../domain/restore-plan.js';
import { readCatalog, requireCatalog } from '../repository/catalog-file.js';
import { catalogsBelow } from '../repository/layout.js';

/** What a target holds: chains and points, the size of each and what it needs. Reads the catalog only. */
export interface ListedPoint {
  readonly point: Point;
  /** Files that the point needs, `<disk>/<file>`, itself included. */
  readonly needs: readonly string[];
  /** Why it cannot be restored as a whole, or null. */
  readonly notWhole: string | null;
  /** Disks whose content may be wrong although all is whole, with the file that says so: see `suspect` in the catalog. */
  readonly suspect: readonly { readonly disk: string; readonly file: string; readonly why: string }[];
}

export interface ListedTarget {
  readonly target: string;
  readonly vm: Catalog['vm'];
  readonly targetId: string;
  readonly points: readonly ListedPoint[];
}

/** The target itself, or every target in the folders below it (as `--monthly` makes them). */
export async function list(target: string): Promise<readonly ListedTarget[]> {
  const root = resolve(target);
  const folders = (await readCatalog(root)) ? [root] : await catalogsBelow(root);
  if (folders.length === 0) await requireCatalog(root);
  return Promise.all(folders.map(async (folder) => listed(folder, await requireCatalog(folder))));
}

function listed(target: string, catalog: Catalog): ListedTarget {
  const points = catalog.points.map((point) => {
    const files = point.disks.flatMap((entry) => {
      const line = entry.state === 'merged' ? undefined : lineOf(catalog, entry);
      return line && 'files' in line ? line.files : [];
    });
    const needs = files.map(({ disk, file }) => `${disk}/${file}`);
    const suspect = files.flatMap(({ disk, file, suspect: why }) => (why === undefined ? [] : [{ disk, file, why }]));
    const reasons = point.disks.map((entry) => whyNotRestorable(catalog, entry));
    return { point, needs, notWhole: reasons.find((reason) => reason !== undefined) ?? null, suspect };
  });
  return { target, vm: catalog.vm, targetId: catalog.targetId, points };
}
