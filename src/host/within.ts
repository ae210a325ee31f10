import { setTimeout as sleep } from 'node:timers/promises';

/** Undefined when it takes longer. */
export async function within<T>(ms: number, promise: Promise<T>): Promise<T | undefined> {
  const over = new AbortController();
  try {
    return await Promise.race([promise, sleep(ms, undefined, { signal: over.signal })]);
  } finally {
    over.abort();
  }
}
