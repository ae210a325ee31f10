import * as v from 'valibot';
import {
  count,
  countOrNull,
  document,
  flag,
  identitySchema,
  listOf,
  object,
  oneOf,
  text,
  textOrNull,
  texts,
  warnings,
} from './parts.js';

const reason = object(
  {
    code: oneOf(
      [
        'last',
        'hourly',
        'daily',
        'weekly',
        'monthly',
        'yearly',
        'within',
        'pinned',
        'needed',
        'last-good',
        'tracked',
        'damaged',
        'future',
        'out-of-order',
        'undated',
        'space',
      ],
      'The rule, or what keeps it whatever the rules say; see docs/json.md',
    ),
    text: text('In words: `monthly 2026-10`'),
  },
  'Why a point is kept',
);

const point = object(
  {
    target: text('Absolute path of its target'),
    id: text('Id of the point'),
    chain: textOrNull('Id of its chain; null for a copy, which is outside every chain'),
    number: count('Number in the chain, from 0'),
    createdAt: text('ISO 8601, UTC'),
    name: text('The point in words'),
    kept: flag('It stays'),
    reasons: listOf(reason, 'Why it stays; empty where it does not'),
    mergedInto: texts('Of one that does not stay: ids of the points that take its data over (--consolidate)'),
    bytes: count('Bytes that its files take'),
  },
  'A point, as it was before',
);

const history = object(
  {
    vm: identitySchema,
    targets: texts('Absolute paths; of --monthly the months of one VM, the oldest first'),
    points: listOf(point, 'Its points, in the order in which they were made'),
    removed: texts('Files that were removed, absolute'),
    freed: count(
      'Bytes that the files of dropped points took; less what new files take, which a dry run does not know',
    ),
    missing: countOrNull(
      'Bytes that --keep-free asks for and that are not free; null where that is not asked, or they are',
    ),
    failed: v.pipe(
      v.nullable(
        object({ why: text('Why, in words'), hint: textOrNull('What to do about it') }, 'Why it was not pruned'),
      ),
      v.description('Why it was not pruned while others were; null where it was'),
    ),
  },
  'The points of one VM',
);

export const pruneDocumentSchema = document(
  'prune',
  {
    histories: listOf(history, 'Each VM in the folder'),
    dryRun: flag('Nothing was changed'),
    warnings: warnings(),
  },
  'The answer of `qmpbackup prune`',
);

export type PruneDocument = v.InferOutput<typeof pruneDocumentSchema>;
