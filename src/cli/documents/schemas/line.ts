import * as v from 'valibot';
import { WARNING_CODES, type WarningCode } from '../../../core/warning.js';
import { JSON_SCHEMA } from '../envelope.js';
import { errorDocumentSchema } from './error.js';
import { count, listOf, number, object, oneOf, text } from './parts.js';

const schema = v.pipe(v.literal(JSON_SCHEMA), v.description('Version of the documents of all commands'));

function line<const Type extends string, const Entries extends v.ObjectEntries>(
  type: Type,
  entries: Entries,
  what: string,
) {
  return v.pipe(
    v.strictObject({
      schema,
      type: v.pipe(v.literal(type), v.description('What this line is')),
      at: text('When, ISO 8601 in UTC'),
      ...entries,
    }),
    v.readonly(),
    v.description(what),
  );
}

const codes = Object.keys(WARNING_CODES) as readonly WarningCode[];

export const lineSchema = v.pipe(
  v.variant('type', [
    line(
      'log',
      {
        level: oneOf(['debug', 'info', 'warning'], 'How much it matters'),
        code: v.pipe(v.nullable(v.picklist(codes)), v.description('What kind of warning; null of anything else')),
        text: text('In words, which may change'),
      },
      'Something that is said on the way',
    ),
    line(
      'progress',
      {
        unit: oneOf(['bytes', 'percent'], 'What is counted'),
        parts: listOf(
          object(
            {
              name: text('The disk, file or step'),
              done: number('So much is done'),
              total: count('Of so much; 100 percent'),
            },
            'What gets on by itself',
          ),
          'What gets on now',
        ),
      },
      'How far the run has got',
    ),
    line(
      'answer',
      {
        answer: v.pipe(
          v.looseObject({ schema, command: text('The command that was run') }),
          v.readonly(),
          v.description('The document that --json prints, which has a schema of its own'),
        ),
      },
      'The answer: the last line of a run that answered',
    ),
    line('error', { error: errorDocumentSchema.pipe[0].entries.error }, 'Why the run failed: its last line'),
  ]),
  v.description('A line of `qmpbackup --json=lines`'),
);

export type LineDocument = v.InferOutput<typeof lineSchema>;
