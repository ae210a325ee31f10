import * as v from 'valibot';
import { JSON_SCHEMA } from '../envelope.js';
import { count, object, oneOf, text, textOrNull } from './parts.js';

export const errorDocumentSchema = v.pipe(
  v.strictObject({
    schema: v.pipe(v.literal(JSON_SCHEMA), v.description('Version of the documents of all commands')),
    error: object(
      {
        code: oneOf(
          [
            'failed',
            'usage',
            'partial',
            'damaged',
            'warnings',
            'no-catalog',
            'locked',
            'unreachable',
            'unsafe',
            'interrupted',
          ],
          'What kind of failure; see docs/json.md',
        ),
        exitCode: count('Exit code of the program'),
        message: text('What failed and why, in words that may change'),
        hint: textOrNull('What to do next, or null'),
      },
      'Why the command failed',
    ),
  }),
  v.readonly(),
  v.description('The answer of any command that failed'),
);

export type ErrorDocument = v.InferOutput<typeof errorDocumentSchema>;
