import type { VerbContext, WarningEvent } from '../../backends/verb-context.js';
import type { ConsolidationEvent, ConsolidationRun } from '../../consolidation/consolidate-points.js';
import type { Catalog } from '../../core/catalog.js';
import type { VmIdentity } from '../../core/identity.js';
import type { Point } from '../../core/point.js';
import type { RetentionReason } from '../../core/retention.js';
import type { QmpBackupError } from '../../errors.js';
import type { FreeSpaceOfTargets } from './keep-free.js';
import type { PruneOptions } from './options.js';

/** The others only with `--consolidate`. */
export type PruneEvent = WarningEvent | ConsolidationEvent;

export type PruneContext = VerbContext<PruneEvent>;

export interface PruneResult {
  readonly histories: readonly PrunedHistory[];
  readonly dryRun: boolean;
}

/** The points of one VM. */
export interface PrunedHistory {
  readonly vm: VmIdentity;
  /** Folders, the oldest month first. */
  readonly targets: readonly string[];
  /** In the order in which they were sealed. */
  readonly points: readonly PrunedPoint[];
  /** Files that were removed, absolute; also those that a run which was killed had left. */
  readonly removed: readonly string[];
  /** Bytes that the files of dropped points took; less what new files take, which a dry run does not know. */
  readonly freed: number;
  /** Bytes that `--keep-free` asks for and that are not free now; null where it is not asked, or they are. */
  readonly missing: number | null;
  /** Why it was not pruned while others were; null where it was. */
  readonly failed: QmpBackupError | null;
}

export interface PrunedPoint {
  readonly target: string;
  readonly point: Point;
  /** In words. */
  readonly name: string;
  /** Why it is kept; of a dropped point there is none. */
  readonly reasons: readonly RetentionReason[];
  /** Ids of the points that took over the data of a dropped one, `--consolidate`. */
  readonly mergedInto: readonly string[];
  readonly bytes: number;
}

export interface PruneRun extends ConsolidationRun {
  readonly options: PruneOptions;
  readonly space: FreeSpaceOfTargets;
}

/** A target under its lock. */
export interface LockedTarget {
  readonly target: string;
  catalog: Catalog;
  readonly release: () => Promise<void>;
}
