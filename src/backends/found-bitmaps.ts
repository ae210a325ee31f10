import type { RepairAction } from '../core/reconcile.js';

export interface FoundBitmap {
  readonly where: string;
  readonly bitmap: string;
  /** Why it cannot be removed now, where that is known beforehand. */
  readonly stays?: string | undefined;
  /** Resolves when it is gone, as was seen. */
  readonly remove: () => Promise<void>;
}

export interface FoundInVm {
  readonly bitmaps: readonly FoundBitmap[];
  readonly repairs: readonly RepairAction[];
}
