import type { VerbContext, WarningEvent } from '../../backends/verb-context.js';
import type { LeftOut } from '../../core/disk.js';
import type { LackedDisk } from '../../core/point.js';
import type { MergeDeps } from './merge.js';
import type { WrittenDefinition } from '../../machine/domain-definition.js';

/** What a restore reports, and what comes of it. */
export type RestoreEvent =
  | WarningEvent
  | {
      readonly kind: 'planned';
      readonly point: string;
      readonly disks: readonly RestoredDisk[];
      readonly leftOut: readonly LeftOut[];
    }
  /** `percent` of 0 to 100, of this disk. */
  | { readonly kind: 'progress'; readonly disk: string; readonly percent: number };

export interface RestoredDisk {
  readonly disk: string;
  /** Absolute path of the new image, or of the block device. */
  readonly path: string;
  readonly format: 'qcow2' | 'raw';
  /** The files that it is made of, FULL first. */
  readonly files: readonly string[];
  /** Bytes. */
  readonly virtualSize: number;
}

export interface RestoreResult {
  /** Null where every disk has a place of its own. */
  readonly output: string | null;
  /** The point in words. */
  readonly point: string;
  readonly disks: readonly RestoredDisk[];
  /** Disks of the point that are not restored because of what was asked for. */
  readonly leftOut: readonly LeftOut[];
  /** Disks that the VM had and the point does not have, but for those that an option left out. */
  readonly lacks: readonly LackedDisk[];
  /** Path of `machine.json`; null where there is no folder for it. */
  readonly machine: string | null;
  /** What was written was read again, and is what the point holds. */
  readonly compared: boolean;
  /** Of a libvirt domain. */
  readonly definition: (WrittenDefinition & { readonly defined: boolean }) | null;
}

export type RestoreContext = VerbContext<RestoreEvent>;

export type RestoreDeps = MergeDeps;
