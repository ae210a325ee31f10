import type * as v from 'valibot';
import { document, listOf, text, warnings } from './parts.js';
import { notificationSchema } from './run.js';

export const notifyTestDocumentSchema = document(
  'notify-test',
  {
    config: text('Absolute path of the configuration'),
    notifications: listOf(notificationSchema, 'Each notifier, and what came of its test'),
    warnings: warnings(),
  },
  'The answer of `qmpbackup notify test`',
);

export type NotifyTestDocument = v.InferOutput<typeof notifyTestDocumentSchema>;
