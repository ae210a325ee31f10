import { isOverlay } from './overlay-names.js';

/** One image of a disk's chain. */
export interface ImageLayer {
  /** Absolute; null where the image is no file and no device. */
  readonly path: string | null;
  /** For people. */
  readonly description: string;
  readonly format: string;
}

/** An overlay of ours in the chain of a disk. */
export interface OverlayLayer {
  readonly name: string;
  /** Absolute. */
  readonly path: string;
  /** How many layers are above it: the guest writes to the one that has none. */
  readonly depth: number;
}

/** The chain of a disk, as far as it is ours. */
export interface DiskLayers {
  /** Ours, the uppermost first. */
  readonly overlays: readonly OverlayLayer[];
  /** The disk's own image: what the guest writes to where none of ours is. */
  readonly image: ImageLayer;
  /** The images of others that are above one of ours, the uppermost first. */
  readonly above: readonly ImageLayer[];
}

/** `layers`: the uppermost first, and at least one. */
export function layersOf(layers: readonly [ImageLayer, ...ImageLayer[]]): DiskLayers {
  const overlays = layers.flatMap(({ path }, depth): readonly OverlayLayer[] => {
    const name = path?.split('/').pop() ?? '';
    return path !== null && isOverlay(name) ? [{ name, path, depth }] : [];
  });
  const lowest = overlays.at(-1);
  const others = layers.slice(0, lowest?.depth ?? 0).filter(({ path }) => !overlays.some((each) => each.path === path));
  // Above ours lies what somebody has made since; below it what the disk is without us.
  const own = lowest === undefined ? layers[0] : layers[lowest.depth + 1];
  return { overlays, image: own ?? layers[0], above: others };
}

export interface ConsolidatedDisk {
  readonly target: string;
  /** The one image that the disk is on afterwards. */
  readonly image: string;
  readonly by: 'commit' | 'pull';
  /** Overlays of ours, whose files are removed. */
  readonly removed: readonly string[];
  /** Images of others that are in the chain no more; their files stay. */
  readonly left: readonly string[];
}
