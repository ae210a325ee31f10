import type { DetachedOverlay } from '../core/detached-overlay.js';
import type { VmState } from '../core/disk.js';
import type { Failure } from '../core/failure.js';
import type { OverlaySpace } from '../core/overlay-space.js';
import type { Connect } from '../core/virsh-hint.js';

/** What `doctor` sees of a libvirt domain. Sizes are bytes. */
export interface DomainFacts {
  readonly state: VmState;
  /** Disks with the ids that they have in the target, or would get. */
  readonly disks: readonly { readonly id: string; readonly node: string }[];
  /** For hints: which libvirt that is. */
  readonly connect: Connect;
  /** As `virsh uri` says it. */
  readonly uri: string;
  /** `libvirt 9.0.0 with QEMU 7.2.22`. */
  readonly version: string;
  /** A QEMU process has the disks open. */
  readonly active: boolean;
  /** `booted`, `I/O error` …; empty when libvirt says none. */
  readonly stateReason: string;
  /** How many images each disk's top image builds on, by target, where libvirt says it. */
  readonly backing: Readonly<Record<string, number>>;
  /** Programs that a pull needs and that were not found. */
  readonly missingPrograms: readonly string[];
  /** Names. */
  readonly foreignCheckpoints: readonly string[];
  /** Names of snapshots inside of the images, and of those that are images. */
  readonly snapshots: { readonly internal: readonly string[]; readonly external: readonly string[] };
  readonly agent: DomainAgentFacts;
  readonly scratch: readonly ScratchFacts[];
  /** Folders of overlays that track. */
  readonly overlays: readonly OverlaySpace[] | Failure;
  /** Why some of these may not lie where they do: a target is there. */
  readonly overlaysInTarget: readonly Failure[];
  /** Overlays whose disks are attached no more. */
  readonly detachedOverlays: readonly DetachedOverlay[] | Failure;
  /** Why a run by overlay would be refused, where overlays track disks: of one, or (null) of the domain. */
  readonly overlayObstacles:
    readonly { readonly disk: string | null; readonly what: string; readonly todo: string | null }[] | Failure;
}

export interface DomainAgentFacts {
  readonly channel: 'absent' | 'configured' | 'connected' | 'disconnected';
  /** What the agent answered; null when it was not asked. */
  readonly answer: { readonly fileSystems: number } | 'frozen' | Failure | null;
}

/** A folder in which scratch images will be made, or the socket. */
export interface ScratchFacts {
  readonly folder: string;
  /** The sizes of the disks whose scratch images lie there: so far they can grow, for libvirt does not bound them. */
  readonly need: number;
  readonly space: { readonly free: number; readonly network: boolean } | Failure;
  /** Why this user cannot make a folder there. */
  readonly write: Failure | null;
  /** The first folder of the path that, by its mode, the user whom QEMU runs as may not pass. */
  readonly barred: { readonly folder: string; readonly uid: number } | null;
}
