/** An overlay of ours that is above no disk: a domain's disk may be unplugged, or attached without it, while it is above its image. */
export interface DetachedOverlay {
  /** Absolute path: what the disk is attached by, with all that the guest wrote to it. */
  readonly overlay: string;
  /** Further overlays of ours that it builds on. */
  readonly buildsOn: readonly string[];
  /** The disk's own image; null where nothing tells. */
  readonly image: string | null;
  /** The definition for the next start of the domain has it. */
  readonly atNextStart: boolean;
  /** A disk is on the image without it: the overlay was merged, or its disk attached by the image alone. */
  readonly imageInUse: boolean;
}

export function detachedInWords({ overlay, image, atNextStart, imageInUse }: DetachedOverlay): string {
  if (imageInUse) {
    return `${overlay} is above no disk, and ${image ?? 'its image'} is in use without it; it may hold what was written before that`;
  }
  const what = `${overlay} holds what the guest wrote to a disk that is attached no more`;
  const without = image === null ? '' : `, and that ${image} lacks`;
  return `${what}${without}${atNextStart ? '; the next start of the domain attaches it again' : ''}`;
}

/** `attach`: the command, up to the file. */
export function detachedTodo({ overlay, atNextStart, imageInUse }: DetachedOverlay, attach: string): string {
  // The image has moved on: above it, the overlay would be neither what the disk was nor what it is.
  if (imageInUse)
    return 'Attach no disk by it: that would damage both. Nothing removes it: do so when none of it is needed.';
  const again = `${attach} ${overlay} TARGET --subdriver qcow2 --persistent`;
  if (atNextStart) return 'Keep it, and never attach the image below it alone. Nothing removes it.';
  return `Attach the disk by this file, never by its image alone: ${again}. Nothing removes it: do so when none of it is needed.`;
}
