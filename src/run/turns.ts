import { allOf } from '../flow/all-of.js';

/** How many steps go on at a time: of all, and of those that are of one and the same. */
export interface Lanes {
  readonly most: number;
  /** Null is as many as there are lanes. */
  readonly mostOfOne: number | null;
}

/** Does `step` for each of `items` as its turn comes, in their order as far as the limits let them. */
export async function inTurns<T extends { readonly of: string }>(
  items: readonly T[],
  { most, mostOfOne }: Lanes,
  step: (item: T) => Promise<void>,
): Promise<void> {
  const waiting = [...items];
  const busy = new Map<string, number>();
  const busyWith = (of: string): number => busy.get(of) ?? 0;
  const begun = new Set<Promise<void>>();
  const all: Promise<void>[] = [];
  const next = (): T | undefined => {
    const at = waiting.findIndex(({ of }) => mostOfOne === null || busyWith(of) < mostOfOne);
    return at < 0 ? undefined : waiting.splice(at, 1)[0];
  };
  const begin = (item: T): void => {
    busy.set(item.of, busyWith(item.of) + 1);
    const done = step(item).finally(() => {
      busy.set(item.of, busyWith(item.of) - 1);
      begun.delete(done);
    });
    begun.add(done);
    // Whether it failed is told when all have ended.
    done.catch(() => undefined);
    all.push(done);
  };
  while (waiting.length > 0) {
    const item = begun.size < most ? next() : undefined;
    if (item) begin(item);
    else await Promise.race(begun).catch(() => undefined);
  }
  await allOf(all);
}
