import type * as v from 'valibot';
import { count, document, identitySchema, level, listOf, object, text, textOrNull, warnings } from './parts.js';

export const exportDocumentSchema = document(
  'export',
  {
    target: text('Absolute path of the target'),
    vm: identitySchema,
    output: textOrNull('Absolute path of the archive; null where it went to stdout'),
    points: listOf(
      object(
        {
          id: text('Id of the point'),
          chain: textOrNull('Id of its chain; null for a copy'),
          number: count('Number in the chain, from 0'),
          level,
          createdAt: text('ISO 8601, UTC'),
        },
        'A point',
      ),
      'The points in the archive, in the order in which they were sealed',
    ),
    size: count('Bytes of the archive'),
    warnings: warnings(),
  },
  'The answer of `qmpbackup export`; on stderr where the archive goes to stdout',
);

export type ExportDocument = v.InferOutput<typeof exportDocumentSchema>;
