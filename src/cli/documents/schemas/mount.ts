import type * as v from 'valibot';
import { count, document, listOf, object, text, texts, warnings } from './parts.js';

export const mountDocumentSchema = document(
  'mount',
  {
    target: text('Absolute path of the target'),
    point: text('The point that is mounted, in words'),
    mountpoint: text('Absolute path of the folder'),
    disks: listOf(
      object(
        {
          disk: text('Disk id'),
          path: text('Absolute path of the raw file'),
          virtualSize: count('Size of the disk in bytes'),
          files: texts('The files that it is read from, FULL first'),
        },
        'A mounted disk',
      ),
      'The mounted disks',
    ),
    warnings: warnings(),
  },
  'The answer of `qmpbackup mount`, printed when the files can be read',
);

export type MountDocument = v.InferOutput<typeof mountDocumentSchema>;
