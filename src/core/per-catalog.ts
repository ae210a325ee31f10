import type { Catalog } from './catalog.js';

/**
 * What `find` finds by a look at every point is looked for once: a catalog does not change, a run asks a dozen times, and a chain has
 * thousands of points.
 */
export function perCatalog<T>(find: (catalog: Catalog) => T): (catalog: Catalog) => T {
  const found = new WeakMap<Catalog, { readonly value: T }>();
  return (catalog) => {
    const known = found.get(catalog) ?? { value: find(catalog) };
    found.set(catalog, known);
    return known.value;
  };
}
