/** Parts of a disk for a check that does not read all of it. Sizes are bytes. */
export interface Window {
  readonly offset: number;
  readonly length: number;
}

const MiB = 1024 * 1024;
/** A disk up to this size is not worth sampling. */
const WHOLE = 64 * MiB;
const SHARE = 0.05;
const MOST_WINDOWS = 64;
const ALIGNMENT = 65_536;

/**
 * About a twentieth of the disk, in windows that are spread over it: each lies anywhere within an equal part of the
 * disk, so that no region can be missed for ever. `random` gives numbers from 0 up to, not including, 1.
 */
export function sampleWindows(size: number, random: () => number): readonly Window[] {
  if (size <= WHOLE) return [{ offset: 0, length: size }];
  const wanted = size * SHARE;
  const count = Math.min(MOST_WINDOWS, Math.max(4, Math.ceil(wanted / (16 * MiB))));
  const part = size / count;
  const length = Math.min(part, Math.ceil(wanted / count));
  return Array.from({ length: count }, (_, index) => {
    const offset = aligned(index * part + random() * (part - length));
    return { offset, length: Math.min(aligned(length) + ALIGNMENT, size - offset) };
  });
}

function aligned(bytes: number): number {
  return Math.floor(bytes / ALIGNMENT) * ALIGNMENT;
}
