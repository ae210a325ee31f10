import { IMAGE_CLUSTER } from '../core/image-cluster.js';
import type { DomainJobInfo } from './job-info.js';

/** One image that was pushed, by what it holds itself. Bytes. */
export interface PushedImage {
  readonly held: number;
  /** What the push had to copy at the least: all of a full one, and what had changed when it was planned. */
  readonly least: number;
}

/**
 * libvirt tells how the last job ended, and not which one that was: somebody may have ended ours and begun another since.
 * That one cannot have run for as long as ours was seen to run, nor copied just what our images hold.
 *
 * @returns why a push that is no longer there cannot be taken as whole, or null where it ended well
 */
export function whyNotWhole(
  last: DomainJobInfo | null,
  { seenForMs, images }: { readonly seenForMs: number; readonly images: readonly PushedImage[] },
): string | null {
  if (last === null) return 'libvirt no longer knows how its job ended';
  const { operation, elapsedMs, state, error, copied } = last;
  if (operation !== 'backup' || elapsedMs === null || elapsedMs < Math.floor(seenForMs)) return ANOTHER;
  if (state === 'cancelled') return 'somebody ended its job';
  if (state !== 'completed' || error !== null) return error ?? `its job ended as ${state}`;
  const held = images.reduce((sum, image) => sum + image.held, 0);
  // Where nothing had to be copied libvirt tells no number. The last cluster of a disk may be a part of one.
  if (Math.abs((copied?.bytes ?? 0) - held) > IMAGE_CLUSTER * images.length) return ANOTHER;
  return images.some((image) => image.held + IMAGE_CLUSTER < image.least) ? ANOTHER : null;
}

const ANOTHER = 'how its job ended is not known, since another one has ended after it';
