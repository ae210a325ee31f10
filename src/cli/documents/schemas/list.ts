import * as v from 'valibot';
import { count, document, identitySchema, listOf, object, oneOf, text, textOrNull, texts, warnings } from './parts.js';
import { pointDocumentSchema } from './point.js';

const listedPoint = object(
  {
    point: pointDocumentSchema,
    needs: texts('Files that the point needs, `<disk>/<file>`, itself included'),
    frees: count('Bytes that are free when this point alone is removed, as by `prune`; 0 where others build on it'),
    neededBy: texts('Ids of the points whose files build on its own, without those that do so by way of another'),
    notWhole: textOrNull('Why it cannot be restored as a whole, or null'),
    damaged: listOf(
      object(
        { disk: text('Disk id'), file: text('`<disk>/<file>`'), why: text('What is wrong with it, in words') },
        'A damaged file',
      ),
      'Files that it needs and that are gone, have another size, or were found damaged by `verify`',
    ),
    suspect: listOf(
      object(
        { disk: text('Disk id'), file: text('Name of the file'), why: text('Why, in words') },
        'A file whose content may be wrong',
      ),
      'Files that it needs and whose content may be wrong although they are whole',
    ),
    booted: v.pipe(
      v.nullable(
        object(
          {
            at: text('When, ISO 8601'),
            by: oneOf(['agent', 'serial', 'running'], 'What was to tell that it has booted'),
            afterMs: v.pipe(
              v.nullable(v.number()),
              v.description('Milliseconds from the command to the answer; null where there was none'),
            ),
            why: textOrNull('Why it has not booted, in words; null where it has'),
          },
          'What came of the last `verify --boot` of it',
        ),
      ),
      v.description('What came of the last `verify --boot` of it; null where it was never started'),
    ),
  },
  'A restore point and what it needs',
);

export const listDocumentSchema = document(
  'list',
  {
    targets: listOf(
      object(
        {
          target: text('Absolute path of the target'),
          vm: identitySchema,
          targetId: text('Id of the target'),
          points: listOf(listedPoint, 'Its points, in the order in which they were made'),
          warnings: warnings('What files that are gone or altered cost, in words'),
        },
        'A target',
      ),
      'The target, or each one in the folders below',
    ),
    unread: listOf(
      object(
        {
          target: text('Absolute path of the target'),
          why: text('What is wrong with its catalog, in words'),
          hint: textOrNull('What to do about it'),
        },
        'A target that cannot be listed',
      ),
      'Of several targets those whose catalog cannot be read',
    ),
  },
  'The answer of `qmpbackup list`',
);

export type ListDocument = v.InferOutput<typeof listDocumentSchema>;
