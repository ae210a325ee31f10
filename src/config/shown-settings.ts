import { SETTINGS } from './settings.js';
import type { Given } from './config.js';
import type { Origin, Vm } from './vm.js';

/** A value in force, and where it comes from. */
export interface ShownSetting {
  /** `keep.daily`. */
  readonly key: string;
  /** Null where there is none. */
  readonly value: Given | number | null;
  /** Null is built in. */
  readonly from: Origin | null;
}

/** All that can be said of a VM, in the order of the sections. */
export function shownSettings({ values }: Vm): readonly ShownSetting[] {
  const paths = [...SETTINGS.keys()];
  const inOrder = [...paths.filter((path) => !path.includes('.')), ...paths.filter((path) => path.includes('.'))];
  return inOrder.map((key) => {
    const found = values.get(key);
    if (found) return { key, value: found.given, from: found.from };
    return { key, value: builtIn(SETTINGS.get(key)?.rule.fallback), from: null };
  });
}

function builtIn(fallback: unknown): ShownSetting['value'] {
  return ['string', 'number', 'boolean'].includes(typeof fallback) ? (fallback as string | number | boolean) : null;
}
