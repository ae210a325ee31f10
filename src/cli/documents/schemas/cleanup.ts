import type * as v from 'valibot';
import { document, flag, listOf, object, text, texts, warnings } from './parts.js';
import { repairSchema } from './repair.js';

const bitmap = object(
  {
    where: text('Node name, target of the disk of a domain, or path of the image'),
    bitmap: text('Name of the bitmap or checkpoint'),
    removed: flag('It was removed; with --dry-run it would be'),
    why: text('Why, in words'),
  },
  'A bitmap',
);

export const cleanupDocumentSchema = document(
  'cleanup',
  {
    bitmaps: listOf(bitmap, 'Each bitmap that was found'),
    stuck: listOf(bitmap, 'Those that were to be removed and are still there'),
    needFull: texts('Ids of the targets whose next backup will be full'),
    dryRun: flag('Nothing was changed'),
    repairs: listOf(repairSchema, 'What was ended first of what a dead run had left going on in the VM'),
    warnings: warnings(),
  },
  'The answer of `qmpbackup cleanup`',
);

export type CleanupDocument = v.InferOutput<typeof cleanupDocumentSchema>;
