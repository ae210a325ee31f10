import type { Verb } from '../config/settings.js';
import type { ErrorCode } from '../errors.js';

/** One verb that `run` has had carried out for a VM, and what came of it. */
export interface StepEnd {
  readonly exitCode: number;
  /** Why it failed; null where it answered. */
  readonly error: { readonly code: ErrorCode; readonly message: string; readonly hint: string | null } | null;
  /** What it found that makes more of it than done: damage, disks that are not in the point, space that is missing. */
  readonly findings: readonly string[];
  readonly warnings: readonly string[];
  /** What it did, in a line; null where it failed. */
  readonly summary: string | null;
  /** Of a backup that was made. */
  readonly point: PointMade | null;
}

export interface PointMade {
  /** Folder of the point: with `--monthly` that of the month. */
  readonly target: string;
  /** The point in words. */
  readonly name: string;
  readonly level: string;
  /** Bytes that were copied. */
  readonly bytes: number;
  /** Milliseconds; null where the guest was not frozen, or stopped. */
  readonly frozenMs: number | null;
  readonly pausedMs: number | null;
}

/** Starts the program for one verb, and hears it out. Never rejects. */
export type RunVerb = (args: readonly string[], on: StepListener) => Promise<StepEnd>;

export interface StepListener {
  readonly signal: AbortSignal;
  /** Percent. */
  readonly progress: (percent: number) => void;
}

export type StepVerb = Verb | 'boot';
