import { allOf } from './all-of.js';

/** Does `step` for each of `items`, so many at a time, in their order; the answers are in it, too. As `allOf` where one fails. */
export async function inLanes<T, R>(
  items: readonly T[],
  lanes: number,
  step: (item: T) => Promise<R>,
): Promise<readonly R[]> {
  const answers: R[] = [];
  const waiting = items.entries();
  const lane = async (): Promise<void> => {
    for (const [index, item] of waiting) answers[index] = await step(item);
  };
  await allOf(Array.from({ length: Math.min(lanes, items.length) }, lane));
  return answers;
}
