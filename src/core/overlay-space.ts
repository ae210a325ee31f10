import { formatBytes } from './bytes.js';

/** A folder with overlays that track, which nobody watches between two runs. Sizes are bytes. */
export interface OverlaySpace {
  readonly folder: string;
  /** What the overlays there have grown to since the last run. */
  readonly held: number;
  readonly free: number;
  /** It is on a file system that is gone when the host restarts. */
  readonly inMemory: boolean;
}

export function overlaySpaceInWords({ folder, held, free }: OverlaySpace): string {
  return `the overlays in ${folder} hold ${formatBytes(held)} since the last run, and ${formatBytes(free)} are free there`;
}

/** A guest that writes as much again, as until a run that comes after one that failed, fills the folder; then it stands still. */
export function overlaysAreTight({ held, free }: OverlaySpace): boolean {
  return free < held;
}

export function inMemoryInWords(folder: string): string {
  return `overlays that stay are in memory in ${folder}: when the host restarts they are gone, with all that the guest wrote since the last run`;
}

export const WHEN_TIGHT = 'a guest that writes as much again before they are merged stands still';
