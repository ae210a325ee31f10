import { setTimeout as sleep } from 'node:timers/promises';

/** What came of one attempt to deliver something. */
export type Attempt =
  | {
      readonly delivered: true;
      /** Which of several receivers have not got it, and why; null: each has. */
      readonly missed: string | null;
    }
  | {
      readonly delivered: false;
      readonly why: string;
      /** Whether it may succeed later. */
      readonly mayPass: boolean;
      /** What the receiver has asked for, in milliseconds; null: it has not. */
      readonly waitMs: number | null;
    };

export const DELIVERED: Attempt = { delivered: true, missed: null };

/** Some have got it, so that it is not sent again. */
export function deliveredBut(missed: string): Attempt {
  return { delivered: true, missed };
}

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

export interface Delivered {
  /** Whether anybody has got it. */
  readonly told: boolean;
  /** Why not, or not all; null where each has. */
  readonly failed: string | null;
}

/** Tries again what may pass. `step` never rejects. */
export async function tryAgain(
  step: (signal: AbortSignal) => Promise<Attempt>,
  { signal, waitsMs, attemptMs }: Patience,
): Promise<Delivered> {
  for (let tried = 0; ; tried += 1) {
    const attempt = await step(AbortSignal.any([signal, AbortSignal.timeout(attemptMs)]));
    if (attempt.delivered) return { told: true, failed: attempt.missed };
    const planned = waitsMs[tried];
    if (!attempt.mayPass || planned === undefined || signal.aborted) return { told: false, failed: attempt.why };
    const waited = await sleep(Math.max(planned, attempt.waitMs ?? 0), true, { signal }).catch(() => false);
    if (!waited) return { told: false, failed: attempt.why };
  }
}
