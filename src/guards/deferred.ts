/** A promise that somebody else settles. */
export interface Deferred<T> {
  readonly promise: Promise<T>;
  readonly resolve: (value: T) => void;
  readonly reject: (error: unknown) => void;
}

export function deferred<T>(): Deferred<T> {
  let resolve: (value: T) => void = () => undefined;
  let reject: (error: unknown) => void = () => undefined;
  const promise = new Promise<T>((onResolve, onReject) => {
    resolve = onResolve;
    reject = onReject;
  });
  // Whoever waits gets the error; that nobody waits at the moment is no fault.
  promise.catch(() => undefined);
  return { promise, resolve, reject };
}

/** Waits for `promise`. What is late may be settled by `onLate`, or gets the error that it returns. Holds the process meanwhile. */
export async function byDeadline<T>(ms: number, promise: Promise<T>, onLate: () => Error | void): Promise<T> {
  const late = deferred<never>();
  const timer = setTimeout(() => {
    const error = onLate();
    if (error) late.reject(error);
  }, ms);
  const hold = setInterval(() => undefined, 1_000);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
    clearInterval(hold);
  }
}
