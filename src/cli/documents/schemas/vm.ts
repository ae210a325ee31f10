import * as v from 'valibot';
import {
  count,
  countOrNull,
  flag,
  leftOutEntries,
  listOf,
  machineSchema,
  object,
  text,
  textOrNull,
  texts,
} from './parts.js';

const bitmap = object(
  {
    name: text('Name of the bitmap'),
    granularity: count('Bytes that one bit stands for'),
    count: countOrNull('Bytes that it marks as changed; null where nobody has counted'),
    recording: flag('It records what the guest writes'),
    persistent: flag('It outlives the QEMU process'),
    busy: flag('An operation is using it'),
    inconsistent: flag('It was not stored cleanly, and can only be removed'),
    unsure: flag('libvirt does not tell whether it is inconsistent or missing'),
    unreadable: v.optional(text('Why what it has recorded cannot be read; absent where it can')),
  },
  'A dirty bitmap',
);

const disk = object(
  {
    id: v.optional(text('Disk id, where one was given by hand')),
    device: textOrNull('Device name in QEMU'),
    qdev: textOrNull('Guest device'),
    node: text('Node name'),
    underJob: flag('A job of somebody else has its filter above the image'),
    heldBy: v.optional(
      object(
        {
          type: text('Type of the job'),
          id: v.optional(text('Id of a job of QEMU')),
          virsh: v.optional(text('The command of virsh that tells of a job of libvirt')),
        },
        'The job of somebody else that has the disk for its own; absent where there is none',
      ),
    ),
    temporary: flag("It is QEMU's own overlay of -snapshot"),
    format: text('Format of the image'),
    file: text('Image file as QEMU names it'),
    backing: v.optional(texts('Files below the image, nearest first; absent where they were not asked for')),
    virtualSize: count('Size of the disk in bytes'),
    allocated: count('Bytes allocated in the image and the files below it'),
    compat: textOrNull('Compatibility level of a qcow2 image'),
    encrypted: flag('It is encrypted'),
    cannotTrack: textOrNull('Why its changes cannot be tracked, or null'),
    bitmaps: listOf(bitmap, 'Its dirty bitmaps'),
    unreadable: v.optional(
      object(
        { why: text('Why'), todo: text('What to do about it') },
        'Why the image of a VM that is off cannot be read; absent where it can',
      ),
    ),
  },
  'A writable disk',
);

export const vmSchema = object(
  {
    machine: machineSchema,
    status: text('Run state in the words of QEMU'),
    running: flag('The guest runs'),
    migration: textOrNull('How its last migration stands; null where there was none'),
    inactive: flag('QEMU does not own the disks, as before or after a migration'),
    disks: listOf(disk, 'Its writable disks'),
    leftOut: listOf(
      object(
        {
          ...leftOutEntries,
          includable: flag('--include NAME takes it all the same'),
          instead: v.optional(text('What to do instead where it is not includable')),
        },
        'A device that a backup leaves out',
      ),
      'Devices that a backup leaves out',
    ),
    jobs: listOf(
      object(
        {
          id: text('Id of the job'),
          type: text('Type of the job'),
          status: text('Its state in the words of QEMU'),
          current: count('How far it is'),
          total: count('How far it has to go'),
          error: textOrNull('Why it failed, or null'),
        },
        'A job of QEMU',
      ),
      'Its jobs',
    ),
    iothread: textOrNull('Its first iothread, or null'),
    passedThrough: texts('Devices of the host that the guest has for its own'),
  },
  'What the VM has',
);

export type VmDocument = v.InferOutput<typeof vmSchema>;
