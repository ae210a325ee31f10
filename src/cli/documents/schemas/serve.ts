import type * as v from 'valibot';
import { count, document, listOf, object, text, textOrNull, texts, warnings } from './parts.js';

export const serveDocumentSchema = document(
  'serve',
  {
    target: text('Absolute path of the target'),
    point: text('The point that is served, in words'),
    disks: listOf(
      object(
        {
          disk: text('Disk id, the name of the NBD export'),
          uri: text('NBD URI of the disk'),
          virtualSize: count('Size of the disk in bytes'),
          overlay: textOrNull(
            'Absolute path of the image that takes what is written; null where the disk is read-only',
          ),
          files: texts('The files that it is read from, FULL first'),
        },
        'A served disk',
      ),
      'The served disks',
    ),
    warnings: warnings(),
  },
  'The answer of `qmpbackup serve`, printed when clients are welcome',
);

export type ServeDocument = v.InferOutput<typeof serveDocumentSchema>;
