/** Resolves when the signal aborts, whatever the reason; never rejects. */
export function aborted(signal: AbortSignal): Promise<undefined> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve(undefined);
    else signal.addEventListener('abort', () => resolve(undefined), { once: true });
  });
}

/** What `step` comes to, for something that takes no signal itself. When the signal aborts that is no longer waited for, and its reason is thrown. */
export async function unlessAborted<T>(signal: AbortSignal, step: Promise<T>): Promise<T> {
  let onAbort = (): void => undefined;
  const end = new Promise<never>((_, reject) => {
    onAbort = () => reject(signal.reason as Error);
  });
  if (signal.aborted) onAbort();
  else signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await Promise.race([step, end]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}
