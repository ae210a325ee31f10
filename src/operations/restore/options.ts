import { resolve } from 'node:path';
import { LOCK_OPTIONS, POINT_OPTIONS, TARGET_OPTIONS } from '../../backends/vm-options.js';
import { bytes, choice, filesByDisk, names, type OptionRules, type RequestOf } from '../../core/option-rules.js';
import { valuesOf, word, wordOr, yesOrNo } from '../../core/option-rules.js';
import type { PointRequest } from '../../core/restore-plan.js';
import { DEFAULT_FILE_NAME } from '../../core/restored-names.js';
import { QmpBackupError } from '../../errors.js';
import type { PlaceRequest } from './places.js';
import type { DefinitionRequest } from '../../machine/domain-definition.js';

/** What a verb that makes images can be asked about them. */
export const IMAGE_OPTIONS = {
  /** Of images; a block device is always written raw. */
  format: choice('--format', ['qcow2', 'raw'], 'qcow2'),
  /** Does not read the result again, to compare it with the backup. */
  verify: yesOrNo('--no-verify', true),
  /** Whose the result is, `USER[:GROUP]`; without, of the user who runs it. */
  owner: word('--owner'),
  /** Bytes per second; 0 is no limit. */
  rateLimit: bytes('--rate-limit', 0),
} satisfies OptionRules;

export const RESTORE_OPTIONS = {
  ...TARGET_OPTIONS,
  ...POINT_OPTIONS,
  ...LOCK_OPTIONS,
  ...IMAGE_OPTIONS,
  /** Folder for the images and `machine.json`; needed where not every disk has a place by `to`. */
  output: word('--output'),
  /** Places of single disks, by disk id: a new image, or a block device, which is written over. */
  to: filesByDisk('--to'),
  /** What is at a place in `to` may be written over. */
  overwrite: yesOrNo('--overwrite'),
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
  /** Defines the domain in libvirt (`connect`), with the restored disks. */
  define: yesOrNo('--define'),
  /** A name for the domain beside the original. */
  name: word('--name'),
  /** URI of the libvirt; without, as virsh. */
  connect: word('--connect'),
} satisfies OptionRules;

export type RestoreRequest = RequestOf<typeof RESTORE_OPTIONS>;

/**
 * Writes all disks of a point as new standalone images `<output>/<disk>.qcow2` (or as `--file-name` and `--to` say), and `machine.json`, which tells
 * how the VM was; of a libvirt domain also its definition. All of it or nothing, but for devices; the backup is only read.
 */
export interface RestoreOptions extends PointRequest {
  readonly target: string;
  readonly places: PlaceRequest;
  readonly fileName: string;
  readonly rateLimit: number;
  readonly verify: boolean;
  readonly owner: string | null;
  readonly breakLock: boolean;
  readonly definition: DefinitionRequest;
}

/** @throws QmpBackupError `usage` */
export function restoreOptions(request: RestoreRequest): RestoreOptions {
  const all = valuesOf(RESTORE_OPTIONS, request);
  const { point, at, until, define, name, connect, output, to, overwrite, format, ...values } = all;
  if (output === null && Object.keys(to).length === 0) {
    throw new QmpBackupError('usage', 'the required option --output was not given', {
      hint: 'Name the folder for the images, --output DIR, or a place for each disk, --to DISK=PATH.',
    });
  }
  if (output === null && (define || name !== null)) {
    throw new QmpBackupError('usage', `${define ? '--define' : '--name'} needs a folder for the definition`, {
      hint: 'Name it: --output DIR. Disks may have other places all the same: --to DISK=PATH.',
    });
  }
  return {
    ...values,
    point: point ?? undefined,
    at: at ?? undefined,
    places: { output: output === null ? null : resolve(output), to, overwrite, format },
    until: until ?? undefined,
    definition: { define, name, connect },
  };
}
