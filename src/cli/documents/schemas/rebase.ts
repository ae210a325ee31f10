import type * as v from 'valibot';
import { document, flag, text, texts, warnings } from './parts.js';

export const rebaseDocumentSchema = document(
  'rebase',
  {
    dir: text('The folder of the disk'),
    full: text('The file that everything is merged into'),
    head: text('The file whose state it then has; `full` where there is nothing to merge'),
    merged: texts('Files whose content moves into it, oldest first'),
    lost: texts('Older files of other branches, whose states are lost'),
    relinked: texts('Files that build on it from then on'),
    resumes: flag('A merge that was interrupted is finished'),
    dryRun: flag('Nothing was changed'),
    removed: texts('Files that were removed, also those that an earlier run had left'),
    warnings: warnings(),
  },
  'The answer of `qmpbackup rebase` (and `commit`, which is the same)',
);

export type RebaseDocument = v.InferOutput<typeof rebaseDocumentSchema>;
