import type { Catalog } from './catalog.js';
import { describedSource } from './chain.js';
import { recordedHardware } from './hardware.js';
import type { Point, PointDisk } from './point.js';

/** `machine.json` beside restored disks: what the VM of a point was like, and what its disks have become. */
export interface PlacedInMachine {
  /** In the folder, else a path. */
  readonly file: string;
  readonly format: string;
}

export interface RecordedMachine {
  readonly catalog: Catalog;
  readonly point: Point;
  /** Each with the files that its state takes, FULL first. */
  readonly disks: readonly { readonly entry: PointDisk; readonly chain: readonly { readonly entry: PointDisk }[] }[];
}

export const MACHINE_SCHEMA = 1;

export function machineRecord(
  { catalog, point, disks }: RecordedMachine,
  placed: (disk: string) => PlacedInMachine,
): object {
  const { createdAt, consistency, vmStatus } = point;
  const machine = { ...point.machine, hardware: recordedHardware(catalog.points, point) };
  return {
    schema: MACHINE_SCHEMA,
    ...machine,
    takenAt: createdAt,
    consistency,
    vmStatus,
    disks: disks.map(({ entry: { disk, virtualSize, plaintextOfEncrypted }, chain }) => ({
      disk,
      ...placed(disk),
      virtualSize,
      plaintextOfEncrypted,
      source: describedSource(chain.map(({ entry }) => entry)),
    })),
  };
}
