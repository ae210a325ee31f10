import * as v from 'valibot';
import { endpointSchema } from './messages.js';

export const pauseTask = v.object({
  monitor: endpointSchema,
  /** Milliseconds that the VM may stand still before an owner that hangs is ended. */
  limitMs: v.number(),
});

export type PauseGuardTask = Readonly<v.InferOutput<typeof pauseTask>>;

/** The VM is about to be stopped · it goes on again. */
export type ToPauseGuard = { readonly type: 'hold' } | { readonly type: 'done' };
