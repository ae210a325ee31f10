import type * as v from 'valibot';
import { count, document, oneOf, text, textOrNull, texts, warnings } from './parts.js';

export const reportDocumentSchema = document(
  'report',
  {
    config: textOrNull('Absolute path of the configuration; null where targets were named'),
    at: text('When it was found out, ISO 8601'),
    level: oneOf(['ok', 'warning', 'critical'], 'Whether all is well, as `status` says it'),
    vms: count('VMs in the report'),
    pages: texts('Absolute paths of the pages that were written, the overview first'),
    removed: texts('Names of pages that were removed, of VMs that are no longer in the report'),
    warnings: warnings(),
  },
  'The answer of `qmpbackup report`',
);

export type ReportDocument = v.InferOutput<typeof reportDocumentSchema>;
