import type { VerbContext, WarningEvent } from '../../backends/verb-context.js';

/** What a boot reports on the way, and what comes of it. */
export type BootEvent =
  | WarningEvent
  /** What of the machine is not as it was, in words. */
  | { readonly kind: 'differs'; readonly what: string }
  /** The VM runs, as a process or as a domain; `again`: it did so already. */
  | { readonly kind: 'running'; readonly as: number | string; readonly again: boolean; readonly afterMs: number }
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
  /** Of QEMU; null for a domain, as are the next three: libvirt has them. */
  readonly pid: number | null;
  /** QEMU's command line, the program first. */
  readonly command: readonly string[] | null;
  /** The same as a script. */
  readonly script: string | null;
  readonly monitor: string | null;
  /** Of a point of a libvirt domain. */
  readonly domain: { readonly name: string; readonly uuid: string } | null;
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
