import type { VerbContext, WarningEvent } from '../../backends/verb-context.js';
import type { BootProof } from '../../core/boot-proof.js';
import type { Catalog } from '../../core/catalog.js';
import type { TargetFinding } from '../../core/target-finding.js';
import type { Warn } from '../../core/warning.js';
import type { VerifyTargetOptions } from './options.js';

/** What a verify reports on the way, and what comes of it. */
export type VerifyEvent =
  | WarningEvent
  | { readonly kind: 'target'; readonly target: string }
  /** A point is started, in words. */
  | { readonly kind: 'booting'; readonly point: string }
  /** Bytes; `disk` is the one whose file is read. */
  | { readonly kind: 'reading'; readonly disk: string; readonly done: number; readonly total: number }
  /** `percent` of the files that are looked at. */
  | { readonly kind: 'looking'; readonly percent: number };

export type VerifyContext = VerbContext<VerifyEvent>;

export interface VerifyResult {
  readonly targets: readonly VerifiedTarget[];
}

export interface VerifiedTarget {
  readonly target: string;
  /** Null where no catalog tells. */
  readonly vm: Catalog['vm'] | null;
  readonly targetId: string | null;
  /** The worst first. */
  readonly findings: readonly TargetFinding[];
  /** What `--repair` has done, in words. The findings are those of after it. */
  readonly repaired: readonly string[];
  /** Points that were looked at. */
  readonly points: number;
  /** Those that cannot be restored as a whole, by name. */
  readonly lost: readonly string[];
  /** Files that were looked at. */
  readonly files: number;
  /** What came of `--boot`; null where nothing was started. */
  readonly booted: BootedPoint | null;
  /** Files that were read to their end, and their bytes. */
  readonly read: { readonly files: number; readonly bytes: number };
}

/** What was seen of a machine that was tried. */
export interface Evidence {
  /** Absolute paths. */
  readonly files: readonly string[];
  /** What could not be seen, in words. */
  readonly missing: readonly string[];
}

/** What came of starting a point. */
export interface BootedPoint {
  /** In words. */
  readonly name: string;
  readonly proof: BootProof;
  readonly evidence: Evidence;
}

/** What the steps of the verify of one target share. */
export interface VerifyRun {
  readonly options: VerifyTargetOptions;
  readonly signal: AbortSignal;
  readonly now: () => Date;
  readonly report: VerifyContext['report'];
  readonly warn: Warn;
}
