import type { DirtyBitmap, DiskHolder, LeftOut, SourceDisk, VmState } from '../../core/disk.js';
import { leftOutPart, machinePart } from './parts.js';
import type { VmDocument } from './schemas/vm.js';

type DiskDocument = VmDocument['disks'][number];

/** What the VM has, but for what a run of ours keeps in it: `recover --dry-run` tells of that. */
export function vmDocument(state: VmState): VmDocument {
  const { status, running, migration, inactive, iothread, passedThrough } = state;
  return {
    machine: machinePart(state.machine),
    status,
    running,
    migration,
    inactive,
    disks: state.disks.map(diskPart),
    leftOut: state.leftOut.map(leftOutOfVm),
    jobs: state.jobs.map(({ id, type, status: stands, current, total, error }) => ({
      id,
      type,
      status: stands,
      current,
      total,
      error,
    })),
    iothread,
    passedThrough,
  };
}

function diskPart(disk: SourceDisk): DiskDocument {
  const { id, device, qdev, address: node, underJob, heldBy, temporary, format, file, backing } = disk;
  const { virtualSize, allocated, compat, encrypted, cannotTrack, unreadable } = disk;
  return {
    id,
    device,
    qdev,
    node,
    underJob,
    heldBy: heldBy && holderPart(heldBy),
    temporary: temporary ?? false,
    format,
    file,
    backing,
    virtualSize,
    allocated,
    compat,
    encrypted,
    cannotTrack,
    bitmaps: disk.bitmaps.map(bitmapPart),
    unreadable: unreadable && { why: unreadable.why, todo: unreadable.todo },
  };
}

function holderPart(holder: DiskHolder): DiskDocument['heldBy'] {
  return 'id' in holder ? { type: holder.type, id: holder.id } : { type: holder.type, virsh: holder.virsh };
}

/** A number that nobody has counted is none. */
function bitmapPart(bitmap: DirtyBitmap): DiskDocument['bitmaps'][number] {
  const { name, granularity, count, uncounted, recording, persistent, busy, inconsistent, unsure, unreadable } = bitmap;
  return {
    name,
    granularity,
    count: uncounted ? null : count,
    recording,
    persistent,
    busy,
    inconsistent,
    unsure: unsure ?? false,
    unreadable,
  };
}

function leftOutOfVm(left: LeftOut): VmDocument['leftOut'][number] {
  return { ...leftOutPart(left), includable: left.offer !== undefined, instead: left.instead };
}
