import type { VerbContext, WarningEvent } from '../../backends/verb-context.js';

/** What a boot reports on the way, and what comes of it. */
export type BootEvent =
  | WarningEvent
  /** What of the machine is not as it was, in words. */
  | { readonly kind: 'differs'; readonly what: string }
  /** The VM runs; `again`: it did so already. */
  | { readonly kind: 'running'; readonly pid: number; readonly again: boolean; readonly afterMs: number }
  /** Bytes of `disk` that were copied. */
  | { readonly kind: 'streaming'; readonly disk: string; readonly done: number; readonly total: number };

export type BootContext = VerbContext<BootEvent>;

export interface BootResult {
  /** Absolute paths. */
  readonly target: string;
  readonly folder: string;
  /** The point in words. */
  readonly point: string;
  /** `already-running`: this run has started nothing. */
  readonly state: 'started' | 'already-running';
  readonly pid: number;
  /** QEMU's command line, the program first. */
  readonly command: readonly string[];
  /** The same as a script. */
  readonly script: string;
  readonly monitor: string;
  /** Socket of the guest agent; null where it has no channel. */
  readonly agent: string | null;
  readonly disks: readonly BootedDisk[];
}

export interface BootedDisk {
  readonly disk: string;
  /** Absolute path of the overlay. */
  readonly overlay: string;
  /** It needs the backup. */
  readonly leans: boolean;
}
