import * as v from 'valibot';
import {
  count,
  document,
  flag,
  leftOutSchema,
  level,
  listOf,
  numberOrNull,
  object,
  text,
  textOrNull,
  texts,
  warnings,
} from './parts.js';
import { pointDocumentSchema } from './point.js';
import { repairSchema } from './repair.js';

const plannedDisk = object(
  {
    disk: text('Disk id: the name of its folder in the target'),
    level,
    reason: text('Why this level, in words'),
    file: text('Name of the new file in the folder of the disk'),
    parent: textOrNull('The file that the new one builds on'),
    compares: flag('No bitmap tells what to copy: the disk is read whole, and what differs from the parent is stored'),
    source: object(
      {
        device: textOrNull('Device name in QEMU'),
        qdev: textOrNull('Guest device'),
        node: text('Node name'),
        file: text('Image file of the VM'),
        format: text('Format of that image'),
        virtualSize: count('Size of the disk in bytes'),
      },
      'Where the disk is in the VM',
    ),
  },
  'What is done with one disk',
);

export const backupDocumentSchema = document(
  'backup',
  {
    target: text('Folder of the point: with --monthly that of the month; - where the disks went to stdout'),
    plan: object(
      {
        level,
        chain: textOrNull('Id of the chain; null for a copy'),
        number: count('Number of the point in the chain, from 0'),
        disks: listOf(plannedDisk, 'The disks of the point'),
        leftOut: listOf(leftOutSchema, 'Disks and devices that the point does not have'),
        removed: texts('Disks of the point before that the VM no longer has'),
      },
      'What was to be done; after --dry-run what would be',
    ),
    repairs: listOf(repairSchema, 'What was repaired first of what an earlier run had left behind'),
    warnings: warnings('All that was warned of, also what an earlier run has said'),
    standing: warnings('Those of the warnings that tell what the disks are like; exit code 5 is not for them'),
    space: object(
      {
        need: count('Bytes that the point could need at most'),
        free: count('Bytes that were free on the target'),
        reserve: count('Bytes that stay free'),
      },
      'Space on the target',
    ),
    point: v.pipe(v.nullable(pointDocumentSchema), v.description('The point; null after --dry-run')),
    freeze: v.pipe(
      v.nullable(
        object(
          {
            fileSystems: count('Number of file systems that were frozen'),
            frozenMs: numberOrNull('For how many milliseconds; null where it could not be told'),
          },
          'How the guest was frozen',
        ),
      ),
      v.description('How the guest was frozen; null where it was not'),
    ),
    fleecing: object({ fleece: flag('By fleecing'), why: text('Why, in words') }, 'Whether by fleecing'),
    pausedMs: numberOrNull('Milliseconds that the VM stood still for fleecing; null where it did not'),
    transactionMs: numberOrNull('Milliseconds that the transaction took; null after --dry-run'),
  },
  'The answer of `qmpbackup backup`',
);

export type BackupDocument = v.InferOutput<typeof backupDocumentSchema>;
