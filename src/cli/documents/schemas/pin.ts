import type * as v from 'valibot';
import { document, flag, object, text, textOrNull, warnings } from './parts.js';

const entries = {
  target: text('Absolute path of the target that holds the point'),
  point: object(
    {
      id: text('Id of the point'),
      chain: textOrNull('Id of its chain; null for a copy, which is outside every chain'),
      createdAt: text('ISO 8601, UTC'),
      pinned: flag('It is neither pruned nor merged away'),
      note: textOrNull('What somebody has written of it'),
    },
    'The point as it is now',
  ),
  name: text('The point in words'),
  changed: flag('It was not so before'),
  warnings: warnings(),
};

export const pinDocumentSchema = document('pin', entries, 'The answer of `qmpbackup pin`');

export const unpinDocumentSchema = document('unpin', entries, 'The answer of `qmpbackup unpin`');

export const noteDocumentSchema = document('note', entries, 'The answer of `qmpbackup note`');

export type PinDocument = v.InferOutput<typeof pinDocumentSchema>;

export type UnpinDocument = v.InferOutput<typeof unpinDocumentSchema>;

export type NoteDocument = v.InferOutput<typeof noteDocumentSchema>;
