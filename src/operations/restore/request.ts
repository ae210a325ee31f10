import type { VerbContext, WarningEvent } from '../../backends/verb-context.js';
import type { LeftOut } from '../../core/disk.js';
import type { LackedDisk } from '../../core/point.js';
import type { MergeDeps } from './merge.js';
import type { WrittenDefinition } from './restore-definition.js';

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
  /** Absolute path of the new image. */
  readonly path: string;
  /** The files that it is made of, FULL first. */
  readonly files: readonly string[];
  /** Bytes. */
  readonly virtualSize: number;
}

export interface RestoreResult {
  readonly output: string;
  /** The point in words. */
  readonly point: string;
  readonly disks: readonly RestoredDisk[];
  /** Disks of the point that are not restored because of what was asked for. */
  readonly leftOut: readonly LeftOut[];
  /** Disks that the VM had and the point does not have, but for those that an option left out. */
  readonly lacks: readonly LackedDisk[];
  /** Path of `machine.json`. */
  readonly machine: string;
  /** Of a libvirt domain. */
  readonly definition: (WrittenDefinition & { readonly defined: boolean }) | null;
}

export type RestoreContext = VerbContext<RestoreEvent>;

export type RestoreDeps = MergeDeps;
