import * as v from 'valibot';
import { count, document, flag, identitySchema, listOf, object, text, textOrNull, texts, warnings } from './parts.js';

const POINT = {
  id: text('Id of the point'),
  chain: textOrNull('Id of its chain'),
  number: count('Number in the chain, from 0'),
  createdAt: text('ISO 8601, UTC'),
  name: text('The point in words'),
};

const chain = object(
  {
    vm: identitySchema,
    target: text('Absolute path of its target'),
    head: v.pipe(
      v.nullable(object(POINT, 'The point that became the FULL')),
      v.description('The point that became the FULL; null where there was nothing to merge'),
    ),
    merged: listOf(object(POINT, 'A point that is gone'), 'The points that were merged into it, oldest first'),
    files: listOf(
      object(
        {
          disk: text('Id of the disk'),
          file: textOrNull('Its name in the folder of the disk; null in a dry run'),
          from: texts('The files that it was made of, oldest first'),
        },
        'A new file',
      ),
      'Files that were made',
    ),
    removed: texts('Files that were removed, absolute'),
    freed: count('Bytes that the old files took and the new ones do not; of a dry run the most that it can be'),
    failed: v.pipe(
      v.nullable(object({ why: text('Why, in words'), hint: textOrNull('What to do about it') }, 'Why it was not')),
      v.description('Why it was left as it is while others were not; null where it was not'),
    ),
  },
  'The chain of one VM',
);

export const consolidateDocumentSchema = document(
  'consolidate',
  {
    chains: listOf(chain, 'Of each VM in the folder its newest chain, or that of --until'),
    dryRun: flag('Nothing was changed'),
    warnings: warnings(),
  },
  'The answer of `qmpbackup consolidate`',
);

export type ConsolidateDocument = v.InferOutput<typeof consolidateDocumentSchema>;
