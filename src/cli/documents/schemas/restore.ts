import * as v from 'valibot';
import {
  count,
  document,
  flag,
  lackedDiskSchema,
  leftOutSchema,
  listOf,
  object,
  oneOf,
  text,
  textOrNull,
  texts,
  warnings,
} from './parts.js';

export const restoreDocumentSchema = document(
  'restore',
  {
    output: textOrNull('Absolute path of the folder of the images; null where every disk has a place by `--to`'),
    point: text('The point that was restored, in words'),
    disks: listOf(
      object(
        {
          disk: text('Disk id'),
          path: text('Absolute path of the new image, or of the block device'),
          format: oneOf(['qcow2', 'raw'], 'Format of the image; block devices are raw'),
          files: texts('The files that it is made of, FULL first'),
          virtualSize: count('Size of the disk in bytes'),
        },
        'A restored disk',
      ),
      'The restored disks',
    ),
    leftOut: listOf(leftOutSchema, 'Disks of the point that an option left out'),
    lacks: listOf(lackedDiskSchema, 'Disks that the VM had and the point does not have'),
    machine: textOrNull('Path of machine.json, which tells how the VM was; null without an output folder'),
    compared: flag('What was written was read again, and is what the point holds'),
    definition: v.pipe(
      v.nullable(
        object(
          {
            name: text('Name of the domain'),
            uuid: text('UUID of the domain'),
            xml: text('Path of its definition'),
            nvram: textOrNull('Path of its UEFI variables'),
            tpm: textOrNull('Path of the folder of its TPM state'),
            notes: texts('What is different from the recorded domain beside the places, in words'),
            defined: flag('It was defined in libvirt'),
          },
          'The definition of a libvirt domain',
        ),
      ),
      v.description('The definition of a libvirt domain; null of other VMs'),
    ),
    warnings: warnings(),
  },
  'The answer of `qmpbackup restore`',
);

export type RestoreDocument = v.InferOutput<typeof restoreDocumentSchema>;
