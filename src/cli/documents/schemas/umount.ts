import type * as v from 'valibot';
import { document, flag, text, texts, warnings } from './parts.js';

export const umountDocumentSchema = document(
  'umount',
  {
    mountpoint: text('Absolute path of the folder'),
    files: texts('The raw files that were there, absolute'),
    dead: flag('The mount had died before, and what it had left was cleared'),
    warnings: warnings(),
  },
  'The answer of `qmpbackup umount`',
);

export type UmountDocument = v.InferOutput<typeof umountDocumentSchema>;
