import * as v from 'valibot';

export const level = v.picklist(['full', 'inc', 'diff', 'copy']);

export type Level = v.InferOutput<typeof level>;
