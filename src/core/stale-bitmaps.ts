import type { Catalog } from './catalog.js';
import { neededBitmaps, recordedBitmaps } from './chain.js';
import { isOurBitmap } from './names.js';

/** Which bitmaps `cleanup` removes, and what that costs. Never anybody else's. */
export interface CleanupChoice {
  /** Only those whose name holds this target or chain id. */
  readonly uuid: string | null;
  /** Only those of these targets that none of their sealed files needs; null for all of ours. */
  readonly staleOf: readonly Catalog[] | null;
}

export type Verdict =
  | { readonly remove: true; readonly why: string; readonly needsFull: boolean }
  | { readonly remove: false; readonly why: string };

export function judgeBitmap(name: string, { uuid, staleOf }: CleanupChoice): Verdict {
  if (!isOurBitmap(name)) return { remove: false, why: 'not ours' };
  if (uuid !== null && !name.includes(uuid)) return { remove: false, why: `its name does not hold ${uuid}` };
  if (staleOf === null) return { remove: true, why: 'asked for', needsFull: true };
  if (staleOf.some((catalog) => neededBitmaps(catalog).has(name))) {
    return { remove: false, why: 'the newest file of a target needs it' };
  }
  const owner = staleOf.find(
    (catalog) => recordedBitmaps(catalog).has(name) || name.startsWith(`qmpbackup-${catalog.targetId}-`),
  );
  if (!owner) return { remove: false, why: 'it belongs to none of the targets given' };
  return { remove: true, why: 'no sealed file of its target needs it', needsFull: false };
}

/** Id of the target that a bitmap of ours belongs to; null for one of the Python tool. */
export function targetIdOf(name: string): string | null {
  return /^qmpbackup-([0-9a-f]{16})-/.exec(name)?.[1] ?? null;
}
