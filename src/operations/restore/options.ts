import { LOCK_OPTIONS, POINT_OPTIONS, TARGET_OPTIONS } from '../../backends/vm-options.js';
import { bytes, names, type OptionRules, type RequestOf, requiredWord } from '../../core/option-rules.js';
import { word, wordOr, valuesOf, yesOrNo } from '../../core/option-rules.js';
import type { PointRequest } from '../../core/restore-plan.js';
import { DEFAULT_FILE_NAME } from '../../core/restored-names.js';
import type { DefinitionRequest } from './restore-definition.js';

export const RESTORE_OPTIONS = {
  ...TARGET_OPTIONS,
  ...POINT_OPTIONS,
  ...LOCK_OPTIONS,
  /** Folder for the images and `machine.json`. */
  output: requiredWord('--output'),
  /** The point that holds this file. */
  until: word('--until'),
  /** Only these disks, by disk id. */
  disks: names('--disk'),
  /** Only these disks: ids, devices, nodes or file names, as they were in the point. */
  include: names('--include'),
  /** All disks but these. */
  exclude: names('--exclude'),
  /** What each image is called, without `.qcow2`, with `{vm}`, `{disk}` and `{point}`. */
  fileName: wordOr('--file-name', DEFAULT_FILE_NAME),
  /** Bytes per second; 0 is no limit. */
  rateLimit: bytes('--rate-limit', 0),
  /** Defines the domain in libvirt (`connect`), with the restored disks. */
  define: yesOrNo('--define'),
  /** A name for the domain beside the original. */
  name: word('--name'),
  /** URI of the libvirt; without, as virsh. */
  connect: word('--connect'),
} satisfies OptionRules;

export type RestoreRequest = RequestOf<typeof RESTORE_OPTIONS>;

/**
 * Writes all disks of a point as new standalone images `<output>/<disk>.qcow2` (or as `--file-name` says), and `machine.json`, which tells how the
 * VM was; of a libvirt domain also its definition. All of it or nothing; the backup is only read.
 */
export interface RestoreOptions extends PointRequest {
  readonly target: string;
  readonly output: string;
  readonly fileName: string;
  readonly rateLimit: number;
  readonly breakLock: boolean;
  readonly definition: DefinitionRequest;
}

/** @throws QmpBackupError `usage` */
export function restoreOptions(request: RestoreRequest): RestoreOptions {
  const { point, at, until, define, name, connect, ...values } = valuesOf(RESTORE_OPTIONS, request);
  return {
    ...values,
    point: point ?? undefined,
    at: at ?? undefined,
    until: until ?? undefined,
    definition: { define, name, connect },
  };
}
