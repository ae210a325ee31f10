import * as v from 'valibot';

export const levelSchema = v.picklist(['full', 'inc', 'diff', 'copy']);

export type Level = v.InferOutput<typeof levelSchema>;
