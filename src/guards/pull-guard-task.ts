import * as v from 'valibot';
import { guardedDomain } from './guarded-domain.js';

export const pullTask = v.object({
  ...guardedDomain.entries,
  /** Path of the job's NBD server, by which it is known. */
  socket: v.string(),
});

export type PullGuardTask = Readonly<v.InferOutput<typeof pullTask>>;
