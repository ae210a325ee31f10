import type { VmState } from './disk.js';
import { listNames } from './listed-names.js';

/**
 * What belongs to a machine that is reached by its monitor, is no disk, and is not in a point: said by `info` and
 * `doctor`, which somebody asks, and not by each run.
 */
export function besideDisks(
  { disks, passedThrough }: Pick<VmState, 'disks' | 'passedThrough'>,
  tpms: readonly string[],
): readonly string[] {
  const snapshots = new Set(disks.flatMap(({ image }) => snapshotsIn(image)));
  return [
    'what is in its memory',
    ...(tpms.length > 0
      ? [`the state of its TPM (${listNames([...tpms])}): copy the folder of swtpm while the VM is off`]
      : []),
    ...onPassedThrough(passedThrough),
    ...(snapshots.size > 0 ? [`internal snapshots (${listNames([...snapshots])}): they stay in the images`] : []),
  ];
}

export function onPassedThrough(devices: readonly string[]): readonly string[] {
  return devices.length > 0
    ? [`what the guest keeps on devices of the host that are passed through (${listNames(devices)})`]
    : [];
}

/** Of QEMU's own description of an image. */
function snapshotsIn(image: unknown): readonly string[] {
  if (typeof image !== 'object' || image === null || !('snapshots' in image)) return [];
  if (!Array.isArray(image.snapshots)) return [];
  return image.snapshots.flatMap((each: unknown) =>
    typeof each === 'object' && each !== null && 'name' in each && typeof each.name === 'string' ? [each.name] : [],
  );
}
