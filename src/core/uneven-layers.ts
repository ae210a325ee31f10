/** An image below that of a disk. */
export interface LayerBelow {
  readonly virtualSize: number;
  readonly bitmaps: readonly string[];
}

/**
 * Whether the parts of a disk's bitmap in its layers are surely of one size: libvirt adds them up, and those of a disk that was
 * grown above an external snapshot cannot be. A layer that could not be looked at is null.
 */
export function addsUp(bitmap: string, virtualSize: number, below: readonly (LayerBelow | null)[]): boolean {
  return below.every(
    (layer) => layer !== null && (layer.virtualSize === virtualSize || !layer.bitmaps.includes(bitmap)),
  );
}
