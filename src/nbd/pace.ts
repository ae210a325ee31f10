import { setTimeout as sleep } from 'node:timers/promises';

/** Milliseconds: a timer of Node's takes no more than 2^31. */
const LONGEST_SLEEP = 2 ** 30;

/**
 * Holds each piece back until its turn, so that the pieces together keep to the rate; 0 is no limit. One sleeps at a time.
 */
export function paceOf(bytesPerSecond: number): (length: number, signal?: AbortSignal) => Promise<void> {
  let next = performance.now();
  let line = Promise.resolve();
  const turn = async (length: number, signal?: AbortSignal): Promise<void> => {
    // Time that passed unused is not made up for later.
    const begin = Math.max(next, performance.now());
    next = begin + (length / bytesPerSecond) * 1000;
    for (let left = begin - performance.now(); left > 0; left = begin - performance.now()) {
      await sleep(Math.min(left, LONGEST_SLEEP), undefined, { signal });
    }
  };
  return (length, signal) => {
    if (bytesPerSecond <= 0) return Promise.resolve();
    const mine = line.then(() => turn(length, signal));
    line = mine.catch(() => undefined);
    return mine;
  };
}
