import type * as v from 'valibot';
import { count, document, text, texts, warnings } from './parts.js';

export const mergeDocumentSchema = document(
  'merge',
  {
    targetFile: text('Absolute path of the new image'),
    files: texts('The files that it was made of, FULL first'),
    virtualSize: count('Size of the disk in bytes'),
    warnings: warnings(),
  },
  'The answer of `qmpbackup merge`',
);

export type MergeDocument = v.InferOutput<typeof mergeDocumentSchema>;
