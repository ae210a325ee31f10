import type { FleeceChoice } from '../../core/fleece-choice.js';
import type { Journal } from '../../core/journal.js';
import type { CopyGuard } from '../../guards/copy-guard.js';
import type { NewCheckpoint } from '../../libvirt/checkpoint-xml.js';
import type { TargetStorage } from '../backend.js';
import type { BackupOptions } from '../backup-options.js';
import type { BackupRun, Planned } from '../backup-run.js';
import type { Copies, StagedImage } from '../copy-method.js';
import type { BackupSession } from './session.js';

export interface DomainRun extends BackupRun {
  readonly session: BackupSession;
}

/** `--method`: who writes the images of a domain's point, once libvirt keeps their instant. */
export interface DomainMethod {
  readonly fleecing: FleeceChoice;
  /** What records the changes after a point; `none`: nothing new. */
  readonly tracks: 'checkpoint' | 'overlay' | 'none';
  /** The images are written by the domain's QEMU, and not by this process. */
  readonly qemuWrites: boolean;
  /** @throws QmpBackupError `usage` for options that this method cannot keep */
  refuse(options: BackupOptions): void;
  /** What it means for the guest that the target is where it is, in words; null where nothing. */
  riskOf(target: TargetStorage): string | null;
  /** @throws QmpBackupError `unsafe` where the domain, or a disk of the plan, cannot be copied so */
  readonly refuseDomain?: (run: DomainRun, planned: Planned) => Promise<void>;
  copyFor(run: DomainRun, planned: Planned): DomainCopy;
}

/** The copy of one attempt. */
export interface DomainCopy {
  /** Absolute folders outside of the target that it needs: made before the begin, removed with all in them at the end. */
  readonly folders: readonly string[];
  /** Other folders that what it makes grows in, which are there already: their space is watched. */
  readonly places?: readonly string[];
  /** Overlays that it puts above disks. */
  readonly overlays?: NonNullable<Journal['overlays']>;
  /** All that it has to look at before the freeze. */
  readonly ready?: () => Promise<void>;
  /** Has libvirt keep the instant, for the staged images in their order, and make the checkpoint. Between freeze and thaw. */
  begin(staged: readonly StagedImage[], checkpoint: NewCheckpoint | null): Promise<void>;
  /** What can be done where libvirt did not begin, by its words; null where only those tell. */
  adviceFor(words: string): string | null;
  /**
   * After the begin: resolves when every image is written and closed by whoever wrote it; but those of disks that failed.
   */
  finish(staged: readonly StagedImage[]): Promise<Copies>;
  /** Compares images with the instant, which is there until `end`. */
  verify(images: readonly StagedImage[]): Promise<void>;
  /**
   * After that: resolves when there is no job any more. No point may count before: it rejects where the job did not last
   * until all was copied.
   */
  end(): Promise<void>;
  /**
   * Ends what this copy has begun in the domain, where the run has to end before it is done; absent where that would touch
   * the target, which may hang. Without a job of ours it does nothing.
   */
  readonly giveUp?: () => Promise<void>;
  /** Starts what ends it where this process is gone, however it died; `resumes`: as of `guardedDomain`. */
  readonly guard?: (resumes: boolean) => CopyGuard;
}
