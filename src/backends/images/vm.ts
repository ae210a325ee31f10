import type { SourceDisk, VmState } from '../../core/disk.js';
import type { Consistency } from '../../core/point.js';
import type { ImageFile } from '../../qemu-tools/image-file.js';
import type { BackupSession } from '../libvirt/session.js';

/** A VM that is off, whichever way it is known. */
export interface OfflineVm {
  readonly state: VmState;
  readonly signal: AbortSignal;
  readonly subject: string;
  /** What a point of it promises. */
  readonly consistency: Consistency;
  /** Why the guest was not at rest when it ended; null where it may have been. */
  readonly unclean: string | null;
  /** The libvirt domain that it is, whose definition is a part of the point. */
  readonly session: BackupSession | null;
  /** What QEMU's programs open for a disk. @throws QmpBackupError `unsafe` where they cannot, or may not */
  readonly imageOf: (disk: Pick<SourceDisk, 'node' | 'file' | 'format'>) => Promise<ImageFile>;
  /** Nodes of the disks that nobody is kept from writing to while they are read. */
  readonly unlocked: readonly string[];
  /** What to do about a disk whose image only the VM itself can read. */
  readonly instead: string;
}
