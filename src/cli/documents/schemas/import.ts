import type * as v from 'valibot';
import { count, document, flag, identitySchema, level, listOf, object, text, textOrNull, warnings } from './parts.js';

const importedDisk = object(
  {
    disk: text('Disk id'),
    from: text('The stream in the folder of the other tool, the path of the image, or the file in the archive'),
    file: text('Name of the file in the folder of the disk'),
    parent: textOrNull('The file that it builds on'),
    virtualSize: count('Size of the disk in bytes'),
    suspect: textOrNull('Why its content may be wrong, or null'),
  },
  'A disk of the point',
);

export const importDocumentSchema = document(
  'import',
  {
    source: text(
      'Absolute path of what was taken in: the folder of the other tool, the newest of the images, or an archive; - is stdin',
    ),
    target: text('Absolute path of the target'),
    vm: identitySchema,
    chain: textOrNull('Id of the chain; null where there are copies only'),
    points: listOf(
      object(
        {
          level,
          number: count('Number in the chain, from 0'),
          checkpoint: textOrNull('The checkpoint that the other tool made with it, or null'),
          createdAt: text('ISO 8601, UTC'),
          disks: listOf(importedDisk, 'Its disks'),
        },
        'A point',
      ),
      'The points that were made; with --dry-run those that would be',
    ),
    dryRun: flag('Nothing was changed'),
    warnings: warnings(),
  },
  'The answer of `qmpbackup import`',
);

export type ImportDocument = v.InferOutput<typeof importDocumentSchema>;
