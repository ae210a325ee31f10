/** An overlay of ours whose disk is attached no more: a domain's disk may be unplugged while an overlay is above its image. */
export interface DetachedOverlay {
  /** Absolute path: what the disk is attached by, with all that the guest wrote to it. */
  readonly overlay: string;
  /** Further overlays of ours that it builds on. */
  readonly buildsOn: readonly string[];
  /** The disk's own image; null where nothing tells. */
  readonly image: string | null;
  /** The definition for the next start of the domain has it. */
  readonly atNextStart: boolean;
}

export function detachedInWords({ overlay, image, atNextStart }: DetachedOverlay): string {
  const what = `${overlay} holds what the guest wrote to a disk that is attached no more`;
  const without = image === null ? '' : `, and that ${image} lacks`;
  return `${what}${without}${atNextStart ? '; the next start of the domain attaches it again' : ''}`;
}

/** `attach`: the command, up to the file. */
export function detachedTodo({ overlay, atNextStart }: DetachedOverlay, attach: string): string {
  const again = `${attach} ${overlay} TARGET --subdriver qcow2 --persistent`;
  if (atNextStart) return 'Keep it, and never attach the image below it alone. Nothing removes it.';
  return `Attach the disk by this file, never by its image alone: ${again}. Nothing removes it: do so when none of it is needed.`;
}
