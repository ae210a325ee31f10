import type { Unwind } from '../../flow/unwind.js';
import type { OpenPoint } from '../../repository/open-point.js';
import type { Overlay } from '../../repository/overlays.js';
import type { OpenBytes } from '../../storage-daemon/open-bytes.js';
import type { BootTrial } from './options.js';
import type { VerifyRun } from './request.js';

/** A machine that is started to see whether it runs: by QEMU, or by libvirt where the point is of a domain. */
export interface TrialMachine {
  /** Settles when it has ended, to why. Rejects where that says nothing of the point. */
  readonly died: Promise<string>;
  /** Why its guest will not answer any more, in words; null while it may. */
  readonly over: () => Promise<string | null>;
  /** Whether the agent has answered within so many milliseconds, else what came of it. */
  readonly askAgent: (ms: number) => Promise<true | string>;
  /** Of its screen, in its folder. */
  readonly takePicture: () => Promise<Picture>;
}

/** Its path, or why there is none. */
export type Picture = { readonly path: string } | { readonly why: string };

export interface PreparedMachine {
  readonly hasAgent: boolean;
  /** All of it ends with this process, however that died. */
  readonly start: () => Promise<TrialMachine>;
}

/** What a machine is made of. */
export interface TrialParts {
  readonly target: string;
  readonly opened: OpenPoint;
  /** Private, and gone afterwards. */
  readonly folder: string;
  readonly overlays: ReadonlyMap<string, Overlay>;
  readonly bytes: OpenBytes;
  readonly serialLog: string;
  readonly trial: BootTrial;
  /** What it is, for whoever finds it. */
  readonly what: string;
  readonly run: VerifyRun;
  readonly unwind: Unwind;
}
