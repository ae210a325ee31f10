import type { CatalogPoint } from './leftovers.js';

/**
 * Of which disks of a domain the next increment needs no FULL, in the view of a few simple rules: since its newest file in a target
 * the domain has only run, been ended gracefully, and been defined anew. Of any other nothing is asked.
 */
export class TrackedDisks {
  /** `<target> <chain> <disk>`. */
  readonly #tracked = new Set<string>();

  /** Something happened by which a bitmap may be gone: of one disk, or of all. */
  forget(disk?: string): void {
    for (const key of this.#tracked) if (disk === undefined || key.endsWith(` ${disk}`)) this.#tracked.delete(key);
  }

  /** Throws where a point of a domain that runs has a disk in whole without need. `points` are those of its catalog. */
  judge(target: string, points: readonly CatalogPoint[], made: readonly CatalogPoint[], level: string): void {
    for (const { id, chain, disks } of made) {
      for (const { disk, level: of, compared = false, bitmap } of disks) {
        const key = `${target} ${chain} ${disk}`;
        const isNeedless =
          (of === 'full' || compared) && (level === 'auto' || level === 'inc') && this.#tracked.has(key);
        if (isNeedless) throw new Error(`${disk} of the point ${id} is read whole, although its bitmap was there`);
        if (chain !== null && bitmap) this.#tracked.add(key);
      }
    }
    const newest = points.findLast(({ chain }) => chain !== null)?.chain ?? null;
    // What no later point can build on.
    for (const key of this.#tracked)
      if (key.startsWith(`${target} `) && key.split(' ')[1] !== newest) this.#tracked.delete(key);
  }
}
