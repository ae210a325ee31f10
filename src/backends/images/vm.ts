import type { SourceDisk, VmState } from '../../core/disk.js';
import type { Journal } from '../../core/journal.js';
import type { Consistency, PointDefinition } from '../../core/point.js';
import type { Warn } from '../../core/warning.js';
import type { ImageFile } from '../../qemu-tools/image-file.js';
import type { Staging } from '../../repository/staging.js';
import type { TargetState } from '../../repository/target.js';

/** A VM that is off, whichever way it is known. */
export interface OfflineVm {
  readonly state: VmState;
  readonly signal: AbortSignal;
  readonly subject: string;
  /** What a point of it promises. */
  readonly consistency: Consistency;
  /** Why the guest was not at rest when it ended; null where it may have been. */
  readonly unclean: string | null;
  /** Null where nobody knows what the VM is beside its disks. */
  readonly definition: OfflineDefinition | null;
  /** How the running VM names its disks only the catalog remembers. */
  readonly namedByCatalog: boolean;
  /** What QEMU's programs open for a disk. @throws QmpBackupError `unsafe` where they cannot, or may not */
  readonly imageOf: (disk: Pick<SourceDisk, 'address' | 'file' | 'format'>) => Promise<ImageFile>;
  /** Addresses of the disks that nobody is kept from writing to while they are read. */
  readonly unlocked: readonly string[];
  /** What to do about a disk whose image only the VM itself can read. */
  readonly instead: string;
}

/** What a VM is beside its disks, as a part of a point. */
export interface OfflineDefinition {
  /** All that can be known before the instant. */
  plan(target: Pick<TargetState, 'target' | 'catalog'>, now: Date): Promise<DefinitionToTake>;
}

export interface DefinitionToTake {
  /** For the journal, so that what a dead run leaves of it is taken away like its images. */
  journalled(attempt: string): Journal['disks'];
  /** Right after the instant; what is returned puts it into the target. */
  take(): Promise<(staging: Staging, warn: Warn) => Promise<PointDefinition>>;
}
