import type { Warn } from '../../core/warning.js';
import type { Unwind } from '../../flow/unwind.js';
import type { BootOptions } from './options.js';
import type { BootContext } from './request.js';

/** One call of `boot`, which has the folder of the overlays to itself. */
export interface BootRun {
  readonly target: string;
  /** Absolute path. */
  readonly folder: string;
  readonly options: BootOptions;
  readonly context: BootContext;
  readonly warn: Warn;
  readonly unwind: Unwind;
  /** Milliseconds, as `performance.now()`. */
  readonly begun: number;
}
