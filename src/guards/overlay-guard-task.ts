import * as v from 'valibot';
import { guardedDomain } from './guarded-domain.js';

export const overlayTask = v.object({
  ...guardedDomain.entries,
  /** Each is known by its name, which is drawn anew at every attempt. */
  overlays: v.array(v.object({ target: v.string(), name: v.string() })),
});

export type OverlayGuardTask = Readonly<v.InferOutput<typeof overlayTask>>;
