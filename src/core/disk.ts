import type { NodeRole } from './names.js';
import type { OverlayLayer } from './overlay-layers.js';

/**
 * What a running VM has, as plain data. `qemu/inspect` makes these from QMP replies; everything in the domain decides
 * on them. Sizes are bytes.
 */
export interface DirtyBitmap {
  readonly name: string;
  readonly granularity: number;
  /** Bytes that the bitmap marks as changed. */
  readonly count: number;
  /** Nobody has counted: `count` is the most that it can be. */
  readonly uncounted?: true;
  readonly recording: boolean;
  readonly persistent: boolean;
  readonly busy: boolean;
  /** QEMU did not close the image cleanly; the only valid operation is to remove the bitmap. */
  readonly inconsistent: boolean;
  /** It may as well be missing: libvirt does not tell the one from the other. */
  readonly unsure?: boolean;
  /** Why what it has recorded cannot be read, although it is in order. */
  readonly unreadable?: string;
}

/** A writable block device of the VM with a medium, as one row of `query-block` and its format node. */
export interface SourceDisk {
  /** The disk id, where a person has given it. */
  readonly id?: string;
  /** Device name of a `-drive` (`ide0-hd0`), or null. */
  readonly device: string | null;
  /** QOM path or id of the guest device, or null when no guest device is attached. */
  readonly qdev: string | null;
  /**
   * How the VM's backend names the disk to whoever copies it: QEMU's top format node, below filters; the target of a libvirt
   * domain (`vda`); the disk id of an image. It holds for one run: never stored as an address.
   */
  readonly address: string;
  /** The node that the guest device has open: that of `address`, or a filter above it. */
  readonly root: string;
  /** A running job of somebody else has its filter between `root` and `address`. */
  readonly underJob: boolean;
  /** The job of somebody else that has the disk for its own: no other is started on it. */
  readonly heldBy?: DiskHolder;
  /** QEMU's own overlay of `-snapshot`, a file that has no name any more. */
  readonly temporary?: true;
  readonly format: string;
  /** Image file as QEMU names it (may be relative to QEMU's working directory, or a `json:` name). */
  readonly file: string;
  /** Files below the image, nearest first, where the way to the VM tells them. */
  readonly backing?: readonly string[];
  readonly virtualSize: number;
  /** Bytes allocated in the image and all its backing files, at most `virtualSize`. */
  readonly allocated: number;
  /** qcow2 compatibility level, else null. */
  readonly compat: string | null;
  readonly encrypted: boolean;
  /** Why the way to this VM cannot track the disk's changes, whatever its image can hold; null where it can. */
  readonly cannotTrack: string | null;
  readonly bitmaps: readonly DirtyBitmap[];
  /** Overlays of ours above the image, the uppermost first; those that track changes are among the `bitmaps`, too. */
  readonly overlays?: readonly OverlayLayer[];
  /** What is to record the disk's changes after this run; a bitmap unless told. */
  readonly tracking?: 'overlay';
  /** QEMU's own description of the image, kept in the point for a stranger. */
  readonly image: unknown;
  /** Why the image of a VM that is off cannot be read, and what to do; absent where it can. */
  readonly unreadable?: { readonly why: string; readonly todo: string };
}

/** What a disk is recognised by. */
export type DiskNames = Pick<SourceDisk, 'device' | 'qdev' | 'file'> & { readonly address: string | null };

/** A job of QEMU's by its id, or one of libvirt's by the command that tells of it. */
export type DiskHolder = { readonly type: string } & ({ readonly id: string } | { readonly virsh: string });

/** A block device that is not backed up, and why. */
export interface LeftOut {
  readonly name: string;
  readonly reason: string;
  readonly kind: LeftOutKind;
  /** What a rule leaves out, and `--include` takes all the same. */
  readonly offer?: Offer;
  /** Why `--include` does not take it either, and what to do instead. */
  readonly instead?: string;
}

export interface Offer {
  /** Its `cannotTrack` says what it costs. */
  readonly source: SourceDisk;
  /** Only in a backup of no other disk. */
  readonly alone: boolean;
}

/**
 * `no-disk`: nothing that the guest keeps data on (no medium, read-only, removable). `request`: left out by an option. `rule`: a
 * writable disk that is left out by a rule of ours, so that the point lacks what the guest keeps there. `failed`: a disk that the
 * point should have, and that could not be copied this time.
 */
export type LeftOutKind = 'no-disk' | 'request' | 'rule' | 'failed';

export interface Machine {
  readonly name: string | null;
  readonly uuid: string | null;
  readonly qemuVersion: string;
  readonly type: string | null;
  readonly memory: number | null;
  readonly cpus: number | null;
}

export interface JobState {
  readonly id: string;
  readonly type: string;
  readonly status: string;
  readonly current: number;
  readonly total: number;
  readonly error: string | null;
}

export interface VmState {
  readonly machine: Machine;
  readonly status: string;
  readonly running: boolean;
  /** How QEMU's last migration stands, or one that is under way; null where there has been none, or nobody tells. */
  readonly migration: string | null;
  /** QEMU does not own the disks: it has given up its right to write to them, or has not got it yet. */
  readonly inactive: boolean;
  readonly disks: readonly SourceDisk[];
  readonly leftOut: readonly LeftOut[];
  readonly jobs: readonly JobState[];
  readonly ownNodes: readonly OwnNode[];
  /**
   * The first iothread of the VM, or null. Which disks are in one each device says in its own way (a virtio-blk disk itself, a
   * SCSI disk through its controller, newer ones a queue at a time), so one anywhere counts for all disks.
   */
  readonly iothread: string | null;
  /** Devices of the host that the guest has for its own; whether it keeps data on them, nobody here knows. */
  readonly passedThrough: readonly string[];
  /** Ids of block exports of ours. */
  readonly ownExports: readonly string[];
}

/** A block node that a run of ours added. */
export interface OwnNode {
  readonly node: string;
  readonly role: NodeRole;
  /** The node that it passes through, or keeps its data in. */
  readonly below: string | null;
  /** The guest device that has this node open. */
  readonly qdev: string | null;
  /** The image at the bottom, as QEMU names it. */
  readonly file: string | null;
}
