import * as v from 'valibot';
import { document, flag, listOf, object, text, texts, warnings } from './parts.js';
import { repairSchema } from './repair.js';

const disk = object(
  {
    target: text('Target of the disk'),
    image: text('The one image that it is on; with `dryRun`, would be'),
    by: v.pipe(v.picklist(['commit', 'pull']), v.description('Into the lowest image, or into the uppermost')),
    removed: texts('Overlays of ours, whose files were removed'),
    left: texts('Images of others that it is on no more; their files stay'),
  },
  'A disk whose images were merged',
);

export const consolidateSourceDocumentSchema = document(
  'consolidate-source',
  {
    disks: listOf(disk, 'Each disk that had more than its image'),
    dryRun: flag('Nothing was changed'),
    repairs: listOf(repairSchema, 'What was ended first of what a dead run had left going on in the domain'),
    warnings: warnings(),
  },
  'The answer of `qmpbackup consolidate-source`',
);

export type ConsolidateSourceDocument = v.InferOutput<typeof consolidateSourceDocumentSchema>;
