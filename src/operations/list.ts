import { resolve } from 'node:path';
import { type Catalog, type Point } from '../domain/catalog.js';
import { findFile, lineOf } from '../domain/chain.js';
import { readCatalog, requireCatalog } from '../repository/catalog-file.js';
import { catalogsBelow } from '../repository/layout.js';

/** What a target holds: chains and points, the size of each and what it needs. Reads the catalog only. */
export interface ListedPoint {
  readonly point: Point;
  /** Files that the point needs, `<disk>/<file>`, itself included. */
  readonly needs: readonly string[];
  /** Why it cannot be restored as a whole, or null. */
  readonly notWhole: string | null;
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
    const needs = new Set<string>();
    let notWhole: string | null = null;
    for (const entry of point.disks) {
      const line = entry.state === 'whole' ? lineOf(catalog, entry) : { missing: entry.file };
      if ('missing' in line) {
        notWhole ??= whyNotWhole(catalog, entry.disk, line.missing, entry.state);
      } else {
        for (const { file } of line.files) needs.add(`${entry.disk}/${file}`);
      }
    }
    return { point, needs: [...needs], notWhole };
  });
  return { target, vm: catalog.vm, targetId: catalog.targetId, points };
}

function whyNotWhole(catalog: Catalog, disk: string, file: string, state: string): string {
  if (state === 'merged') return `${disk}: merged into a later point`;
  if (state === 'merging') return `${disk}: being merged into a later point`;
  return findFile(catalog, disk, file) ? `${disk}: broken at ${file}` : `${disk}: ${file} is missing`;
}
