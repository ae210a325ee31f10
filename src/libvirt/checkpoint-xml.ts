/**
 * Checkpoint documents. Seen with libvirt 9.0: on every disk of a checkpoint the bitmap has the checkpoint's own name,
 * and a document without <domain> and <parent> is enough to redefine one.
 */
import { LibvirtAnswerError } from './errors.js';
import { attribute, escapeXml, find, findAll, parseXml, textAt } from './xml.js';

export interface Checkpoint {
  readonly name: string;
  readonly parent: string | null;
  /** Unix seconds. */
  readonly creationTime: number;
  /** Disks that have a bitmap of this checkpoint. */
  readonly disks: readonly CheckpointDisk[];
}

export interface CheckpointDisk {
  readonly target: string;
  readonly bitmap: string;
  /**
   * Bytes changed since the checkpoint, along the backing chain. Only `dumpxml --size` of a running domain says it, and
   * only of a bitmap that is there and consistent: null in such an answer means that the disk needs a FULL. Undefined where
   * it was not asked.
   */
  readonly changedBytes: number | null | undefined;
  /** Why libvirt could not measure the checkpoint, which it does of all disks or of none: nothing is known of the bitmap then. */
  readonly unmeasured?: string;
}

export interface NewCheckpoint {
  /** Letters, digits, `_`, `-` and, but for the first, `.`: libvirt refuses others. */
  readonly name: string;
  /** Targets of the disks that get a bitmap. */
  readonly disks: readonly string[];
  /** Targets of all other disks: one that is not named may get a bitmap too. */
  readonly without: readonly string[];
  readonly description?: string | undefined;
  /** Unix seconds; for one that is redefined, when it was made. */
  readonly creationTime?: number | undefined;
}

/** `sized`: as of `dumpxml --size`; `unmeasured`: why it is not, although it was asked. */
export function parseCheckpoint(
  xml: string,
  { sized, unmeasured }: { readonly sized: boolean; readonly unmeasured?: string },
): Checkpoint {
  const root = parseXml(xml, 'domaincheckpoint');
  const name = textAt(root, 'name');
  if (name === null) throw new LibvirtAnswerError('the <domaincheckpoint> of libvirt', xml);
  const disks = findAll(find(root, 'disks'), 'disk').flatMap((disk): CheckpointDisk[] => {
    const target = attribute(disk, 'name');
    if (target === null || attribute(disk, 'checkpoint') !== 'bitmap') return [];
    const size = attribute(disk, 'size');
    const changedBytes = size === null ? (sized ? null : undefined) : Number(size);
    return [
      {
        target,
        bitmap: attribute(disk, 'bitmap') ?? name,
        changedBytes,
        ...(unmeasured !== undefined && { unmeasured }),
      },
    ];
  });
  return {
    name,
    parent: textAt(root, 'parent', 'name'),
    creationTime: Number(textAt(root, 'creationTime') ?? 0),
    disks,
  };
}

/** For `backup-begin`, `checkpoint-create` and its `--redefine`. */
export function checkpointXml(checkpoint: NewCheckpoint): string {
  const { name, disks, without, description, creationTime } = checkpoint;
  return [
    '<domaincheckpoint>',
    `  <name>${escapeXml(name)}</name>`,
    ...(description === undefined ? [] : [`  <description>${escapeXml(description)}</description>`]),
    ...(creationTime === undefined ? [] : [`  <creationTime>${creationTime}</creationTime>`]),
    '  <disks>',
    ...disks.map((target) => `    <disk name='${escapeXml(target)}' checkpoint='bitmap'/>`),
    ...without.map((target) => `    <disk name='${escapeXml(target)}' checkpoint='no'/>`),
    '  </disks>',
    '</domaincheckpoint>',
    '',
  ].join('\n');
}
