import type { LeftOut } from '../../core/disk.js';
import type { LackedDisk } from '../../core/point.js';
import type { RestoreRequest } from '../../core/restore-plan.js';
import type { MergeDeps } from './merge.js';
import type { DefinitionRequest, WrittenDefinition } from './restore-definition.js';

/**
 * Writes all disks of a point as new standalone images `<output>/<disk>.qcow2` (or as `--file-name` says), and `machine.json`, which tells how the
 * VM was; of a libvirt domain also its definition. All of it or nothing; the backup is only read.
 */
export interface RestoreOptions extends RestoreRequest {
  readonly target: string;
  readonly output: string;
  /** What the images are called without their ending, with `{vm}`, `{disk}` and `{point}`. */
  readonly fileName?: string | undefined;
  /** Bytes per second; undefined or 0 is no limit. */
  readonly rateLimit?: number | undefined;
  readonly breakLock: boolean;
  readonly definition: DefinitionRequest;
}

export type RestoreEvent =
  | { readonly kind: 'warning'; readonly text: string }
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

export interface RestoreContext {
  readonly signal: AbortSignal;
  readonly report: (event: RestoreEvent) => void;
}

export type RestoreDeps = MergeDeps;
