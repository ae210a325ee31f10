import type { Point } from '../domain/catalog.js';
import type { VmIdentity } from '../domain/identity.js';
import type { BackupPlan, BackupRequest } from '../domain/plan.js';
import type { RepairAction } from '../domain/reconcile.js';
import type { Endpoint } from '../qmp/endpoint.js';
import type { Freeze, Instant } from './take-point.js';
import type { VmAccess, VmSession } from './vm-session.js';

/** What a backup is asked, what it reports on the way, what comes of it, and what its stages share. */
export interface BackupOptions extends BackupRequest, Omit<VmAccess, 'what'> {
  readonly target: string;
  readonly monthly: boolean;
  /** `--vm-name`. */
  readonly label: string | null;
  readonly agent: Endpoint | null;
  readonly quiesce: 'no' | 'try' | 'require';
  /** Milliseconds the agent may take to freeze. */
  readonly freezeTimeoutMs: number;
  /** Milliseconds after which the guard thaws, whatever happens. */
  readonly freezeLimitMs: number;
  /** Bytes per second per disk; 0 is no limit. */
  readonly speedLimit: number;
  readonly digests: boolean;
  readonly dryRun: boolean;
  /** Milliseconds between two looks at the jobs. */
  readonly progressIntervalMs: number;
  /** Name and version that the catalog records. */
  readonly tool: string;
}

export type BackupEvent =
  | { readonly kind: 'warning'; readonly text: string }
  | { readonly kind: 'repaired'; readonly actions: readonly RepairAction[] }
  | { readonly kind: 'planned'; readonly target: string; readonly plan: BackupPlan }
  | { readonly kind: 'started'; readonly instant: Instant }
  | { readonly kind: 'progress'; readonly disks: readonly DiskProgress[] }
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
  readonly warnings: readonly string[];
  /** Null after `--dry-run`. */
  readonly point: Point | null;
  readonly freeze: Freeze | null;
  readonly transactionMs: number | null;
}

export interface BackupContext {
  readonly signal: AbortSignal;
  readonly now: () => Date;
  /** `YYYY-MM` in local time. */
  readonly month: () => Promise<string>;
  readonly report: (event: BackupEvent) => void;
}

/** What every stage of one run shares. */
export interface BackupRun {
  readonly options: BackupOptions;
  readonly context: BackupContext;
  readonly session: VmSession;
  readonly identity: VmIdentity;
  readonly target: string;
  readonly attempt: string;
  readonly warn: (text: string) => void;
  /** Aborts on a signal to the tool or when a lock is lost. */
  readonly signal: AbortSignal;
}
