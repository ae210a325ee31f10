import type { EmptyQcow2 } from '../core/empty-qcow2.js';
import type { VmState } from '../core/disk.js';
import type { FailedCopy } from '../core/failed-copies.js';
import type { FleeceChoice } from '../core/fleece-choice.js';
import type { Hardware } from '../core/hardware.js';
import type { Journal } from '../core/journal.js';
import type { PlannedDisk } from '../core/plan.js';
import type { Consistency, PointDefinition } from '../core/point.js';
import type { Warning } from '../core/warning.js';
import type { FreezeStatus } from '../guest-agent/client.js';
import type { Staging } from '../repository/staging.js';
import type { TargetState } from '../repository/target.js';
import type { BackupRun, Planned } from './backup-run.js';

/** One way to copy the disks of a VM as they were at one instant, for a plan. Nothing is changed before `start`. */
export interface CopyMethod {
  /** How the instant is kept, and why so. */
  readonly fleecing: FleeceChoice;
  /** Where it rejects nothing of it is left. */
  start(run: BackupRun, vm: VmState): Promise<CopyAttempt>;
}

/**
 * One attempt at a point. Whoever runs it journals, stages, freezes and seals, and calls each step once, in the order in
 * which they stand here; after one that rejects only `giveUp`, `undo` and `explain`.
 */
export interface CopyAttempt {
  /** As it is carried out. */
  readonly planned: Planned;
  readonly fleecing: FleeceChoice;
  /** What it may leave behind in the VM, in the target and elsewhere, as far as it has come; written before anything of that is there. */
  readonly journal: Journal;
  /**
   * What it may leave frozen or stopped, null where nothing. In the journal for the instant only: a later run must not
   * thaw or continue what somebody else has frozen or stopped since.
   */
  readonly atStake: Pick<Journal, 'freezes' | 'stops'> | null;
  /** Null where nothing is frozen. */
  readonly freezer: Freezer | null;
  /** Disks that fail keep the bitmaps that the instant gave them until the point is sealed. */
  readonly keepsBitmapsOfFailed: boolean;
  /** QEMU writes the images, and compares nothing: disks that are to be compared are copied whole first, into a file of their own. */
  readonly qemuWrites: boolean;
  /** Of the new images; null is qcow2's default. */
  readonly compressionType: 'zstd' | null;
  /** All that can be done while the guest runs and before any freeze. */
  prepare(staged: readonly StagedImage[]): Promise<void>;
  /** When it resolves the instant has passed. Between freeze and thaw: nothing else belongs in here. */
  begin(): Promise<Begun>;
  /** Right after that, the guest thawed: reads what changes with the guest, ends the guards, and tells what the point is. */
  begun(taken: Consistency): Promise<Consistency>;
  /** Resolves when each image is written and closed by whoever wrote it; but those of disks that failed. */
  copy(): Promise<Copies>;
  /** Compares the images with the instant. Only where that is asked for. */
  verify(images: readonly StagedImage[]): Promise<void>;
  /**
   * Takes away what the copy needed, and what disks have left that failed. Images are sealed meanwhile, and no point counts
   * before this has resolved.
   */
  end(staging: Staging, failed: readonly FailedCopy[]): Promise<Ended>;
  /** Frees the guest from what it can be freed from at once, whatever becomes of the target. Never rejects. */
  giveUp(error: unknown): Promise<GivenUp>;
  /** As the next run would repair it by the journal of `target`; resolves to what is left for a person, in words. */
  undo(target: TargetState): Promise<readonly Warning[]>;
  /** The failure of the attempt, in words for people. */
  explain(failure: unknown): unknown;
}

/** What a guard that freezes and thaws has to offer. */
export interface Freezer {
  freeze(): Promise<{ readonly fileSystems: number }>;
  /** Right after the instant. */
  finish(): Promise<{
    readonly statusAfterTransaction: FreezeStatus | 'unknown';
    readonly freezeAnswerToThawRequestMs?: number | undefined;
  }>;
  thaw(): Promise<unknown>;
}

/** What the copy method writes into: the image, or a whole copy that the image is made of. */
export function writtenBy({ path, whole }: Pick<StagedImage, 'path' | 'whole'>): string {
  return whole ?? path;
}

/** One image of a point, written and not yet sealed. */
export interface StagedImage {
  readonly planned: PlannedDisk;
  /** Absolute path of the `.partial` file. */
  readonly path: string;
  /** Absolute path of the `.partial` file that QEMU copies all of the disk into, where `path` is to have what differs; else null. */
  readonly whole: string | null;
  /** As it was made. */
  readonly empty: EmptyQcow2;
}

export interface Begun {
  /** Milliseconds that the command took which makes the instant; 0 where there is none. */
  readonly transactionMs: number;
  /** Milliseconds that the VM stood still for fleecing; null where it did not. */
  readonly pausedMs: number | null;
}

/** How an image was filled. */
export interface Copied {
  readonly job: string;
  /** Bytes. */
  readonly copied: number;
  readonly durationMs: number;
}

/** What became of the copies of a point; `failed` is empty without `--skip-failed-disks`. */
export interface Copies {
  readonly outcomes: readonly Copied[];
  readonly failed: readonly FailedCopy[];
}

export interface Ended {
  /** Of the VM, its files under their names; null where there is none. */
  readonly definition: PointDefinition | null;
  /** Of the machine, as far as it told; null where nobody can be asked, or another record has it. */
  readonly hardware: Hardware | null;
  /** Bitmaps of the attempt that belong to no file and could not be removed now. */
  readonly stuck: readonly string[];
}

export interface GivenUp {
  /** What the attempt failed of, with what could be found out about it. */
  readonly failure: unknown;
  /** Nothing is frozen by this attempt any more. */
  readonly thawed: boolean;
}

/** Of a run that `--quiesce=require` fails after the instant. */
export const NOTHING_KEPT = { hint: 'Nothing was kept of this run.' } as const;
