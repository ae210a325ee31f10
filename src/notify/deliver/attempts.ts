import { setTimeout as sleep } from 'node:timers/promises';

/** What came of one attempt to deliver something. */
export type Attempt =
  | { readonly delivered: true }
  | {
      readonly delivered: false;
      readonly why: string;
      /** Whether it may succeed later. */
      readonly mayPass: boolean;
      /** What the receiver has asked for, in milliseconds; null: it has not. */
      readonly waitMs: number | null;
    };

export const DELIVERED: Attempt = { delivered: true };

/** It was refused for good. */
export function refused(why: string): Attempt {
  return { delivered: false, why, mayPass: false, waitMs: null };
}

/** It may pass. */
export function failedNow(why: string, waitMs: number | null = null): Attempt {
  return { delivered: false, why, mayPass: true, waitMs };
}

export interface Patience {
  /** Ends all attempts. */
  readonly signal: AbortSignal;
  /** Milliseconds between attempts; one more attempt than there are of these. */
  readonly waitsMs: readonly number[];
  /** Milliseconds for each attempt. */
  readonly attemptMs: number;
}

/** Tries again what may pass. Null once it is delivered, else why it was not. `step` never rejects. */
export async function tryAgain(
  step: (signal: AbortSignal) => Promise<Attempt>,
  { signal, waitsMs, attemptMs }: Patience,
): Promise<string | null> {
  for (let tried = 0; ; tried += 1) {
    const attempt = await step(AbortSignal.any([signal, AbortSignal.timeout(attemptMs)]));
    if (attempt.delivered) return null;
    const planned = waitsMs[tried];
    if (!attempt.mayPass || planned === undefined || signal.aborted) return attempt.why;
    const waited = await sleep(Math.max(planned, attempt.waitMs ?? 0), true, { signal }).catch(() => false);
    if (!waited) return attempt.why;
  }
}
