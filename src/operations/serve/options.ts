import { type AskedPoint, askedPoint, LOCK_OPTIONS, POINT_OPTIONS, TARGET_OPTIONS } from '../../backends/vm-options.js';
import {
  names,
  type OptionRules,
  portNumber,
  type RequestOf,
  valuesOf,
  word,
  yesOrNo,
} from '../../core/option-rules.js';

export const SERVE_OPTIONS = {
  ...TARGET_OPTIONS,
  ...POINT_OPTIONS,
  ...LOCK_OPTIONS,
  /** What was read is proved by its digests. */
  verify: yesOrNo('--no-verify', true),
  /** Only these disks, by disk id. */
  disks: names('--disk'),
  /** A TCP port of 127.0.0.1, instead of a socket that only this user can reach. */
  port: portNumber('--port'),
  /** A folder for overlays, which take what is written. */
  overlay: word('--overlay'),
} satisfies OptionRules;

export type ServeRequest = RequestOf<typeof SERVE_OPTIONS>;

export interface ServeOptions extends AskedPoint {
  readonly target: string;
  readonly disks: readonly string[];
  readonly port: number | null;
  readonly overlay: string | null;
  readonly breakLock: boolean;
  readonly verify: boolean;
}

/** @throws QmpBackupError `usage` */
export function serveOptions(request: ServeRequest): ServeOptions {
  const { point, at, ...values } = valuesOf(SERVE_OPTIONS, request);
  return { ...values, ...askedPoint({ point, at }) };
}
