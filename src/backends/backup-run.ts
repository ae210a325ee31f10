import type { Catalog } from '../core/catalog.js';
import type { FleeceChoice } from '../core/fleece-choice.js';
import type { VmIdentity } from '../core/identity.js';
import type { BackupPlan } from '../core/plan.js';
import type { Consistency, Point } from '../core/point.js';
import type { RepairAction } from '../core/reconcile.js';
import type { SpaceNeed } from '../core/space.js';
import type { Warn, Warning } from '../core/warning.js';
import type { BackupOptions } from './backup-options.js';
import type { RawSink } from './raw-sink.js';
import type { TargetWatch } from './target-watch.js';
import type { VerbContext, WarningEvent } from './verb-context.js';

/** What a backup reports on the way, what comes of it, and what its stages share. */
export type BackupEvent =
  | WarningEvent
  /** A warning that an earlier run has given. */
  | ({ readonly kind: 'reminder' } & Warning)
  | { readonly kind: 'repaired'; readonly actions: readonly RepairAction[] }
  | { readonly kind: 'planned'; readonly target: string; readonly plan: BackupPlan; readonly fleecing: FleeceChoice }
  | { readonly kind: 'started'; readonly instant: Instant }
  | { readonly kind: 'progress'; readonly disks: readonly DiskProgress[] }
  /** `share`: how much of the disk, in words. */
  | { readonly kind: 'verifying'; readonly disk: string; readonly share: string }
  | { readonly kind: 'sealing' };

export interface DiskProgress {
  readonly disk: string;
  /** Bytes. */
  readonly done: number;
  readonly total: number;
}

export interface BackupResult {
  readonly target: string;
  readonly plan: BackupPlan;
  /** Repairs made before the run; with `--dry-run` those that would be. */
  readonly repairs: readonly RepairAction[];
  /** What was warned of, and each writable disk that is not in the point, whether or not it was said before. */
  readonly warnings: readonly Warning[];
  /** What the disks are like, new or not: no fault of this run. */
  readonly standing: readonly Warning[];
  readonly space: SpaceNeed;
  /** Null after `--dry-run`. */
  readonly point: Point | null;
  readonly freeze: Freeze | null;
  readonly fleecing: FleeceChoice;
  /** Milliseconds that the VM stood still for fleecing; null where it did not. */
  readonly pausedMs: number | null;
  readonly transactionMs: number | null;
}

export interface BackupContext extends VerbContext<BackupEvent> {
  /** Takes the archive of a stream (`output: '-'`), as fast as it likes. */
  readonly archive?: ((bytes: Buffer) => Promise<void>) | undefined;
}

/** As the stages of a run have it. */
export interface StageContext extends BackupContext {
  /** Takes the disks of a copy that is no point. */
  readonly raw: RawSink | undefined;
}

/** What every stage of one run shares. */
export interface BackupRun {
  readonly options: BackupOptions;
  readonly context: StageContext;
  readonly identity: VmIdentity;
  readonly target: string;
  readonly attempt: string;
  readonly warn: Warn;
  /** What an earlier run has warned of already; `lasting`: it is a warning of this run's answer, too. */
  readonly remind: (warning: Warning, lasting: boolean) => void;
  /** Aborts on a signal to the tool, when a lock is lost, or when the watch says so. */
  readonly signal: AbortSignal;
  readonly watch: TargetWatch;
}

/** The plan of a run, with what it was made for. */
export interface Planned {
  readonly plan: BackupPlan;
  readonly targetId: string;
  readonly catalog: Catalog | undefined;
  readonly space: SpaceNeed;
  /** The target is on a file system that may hang. */
  readonly network: boolean;
}

/** How the instant of a point was taken. */
export interface Instant {
  /** ISO 8601, just before the transaction. */
  readonly at: string;
  readonly consistency: Consistency;
  /** Round trip of the transaction, in milliseconds. */
  readonly transactionMs: number;
  readonly freeze: Freeze | null;
  /** Milliseconds that the VM stood still for fleecing; null where it did not. */
  readonly pausedMs: number | null;
}

export interface Freeze {
  readonly fileSystems: number;
  /** From the agent's freeze answer to the thaw request, in milliseconds; null where the guard could not tell. */
  readonly frozenMs: number | null;
}
