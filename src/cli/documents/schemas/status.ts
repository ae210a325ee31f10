import * as v from 'valibot';
import {
  count,
  countOrNull,
  document,
  listOf,
  numberOrNull,
  object,
  oneOf,
  text,
  textOrNull,
  warnings,
} from './parts.js';
import { pointMadeSchema, vmRunSchema } from './run.js';

const level = oneOf(['ok', 'warning', 'critical'], 'Whether all is well');

const reason = object(
  { level: oneOf(['warning', 'critical'], 'How bad it is'), text: text('In words, which may change') },
  'Something that is wrong',
);

const good = object(
  {
    id: text('Id of the point'),
    chain: textOrNull('Id of its chain; null for a copy'),
    number: count('Number in the chain, from 0'),
    createdAt: text('ISO 8601'),
  },
  'A point',
);

const boot = object(
  {
    at: text('When, ISO 8601'),
    afterMs: numberOrNull('Milliseconds until it answered; null where it did not'),
    why: textOrNull('Why it has not booted, in words; null where it has'),
  },
  'What came of a start in a throwaway VM',
);

const vm = object(
  {
    vm: text('Name of the VM in the configuration, or as its catalog calls it'),
    target: text('Its target, absolute'),
    level,
    reasons: listOf(reason, 'What is wrong, the worst first'),
    lastGood: v.pipe(
      v.nullable(good),
      v.description('The newest point that can be restored as a whole; null where there is none'),
    ),
    ageMs: numberOrNull('Its age in milliseconds'),
    maxAgeMs: numberOrNull('How old it may be; null where that is not judged'),
    points: countOrNull('Points in the target; null where it could not be read'),
    damaged: countOrNull('Points that cannot be restored as a whole'),
    chainPoints: countOrNull('Points of the newest chain'),
    allocated: countOrNull('Bytes that all files take'),
    oldestProofAt: textOrNull('When the file that was not read for the longest was read, or written, ISO 8601'),
    verifiedAt: textOrNull('When a run has last verified it and found nothing wrong, ISO 8601'),
    booted: v.pipe(
      v.nullable(boot),
      v.description('What came of the last start of a point; null where none was started'),
    ),
    run: v.pipe(v.nullable(vmRunSchema), v.description('The last run; null where none is known')),
    backup: v.pipe(pointMadeSchema, v.description('The last backup that a run has made; null where none is known')),
    failingSince: textOrNull(
      'Since when it fails, ISO 8601; null where all that had failed was done again, and went well',
    ),
  },
  'A VM',
);

export const statusDocumentSchema = document(
  'status',
  {
    config: textOrNull('Absolute path of the configuration; null where targets were named'),
    at: text('When it was found out, ISO 8601'),
    level,
    vms: listOf(vm, 'The VMs'),
    warnings: warnings(),
  },
  'The answer of `qmpbackup status`',
);

export type StatusDocument = v.InferOutput<typeof statusDocumentSchema>;
