import * as v from 'valibot';
import { DIGEST_METHODS } from '../../../core/pieces.js';
import {
  count,
  flag,
  lackedDiskSchema,
  level,
  listOf,
  machineSchema,
  number,
  object,
  oneOf,
  text,
  textOrNull,
  texts,
} from './parts.js';

const disk = object(
  {
    disk: text('Disk id: the name of its folder in the target'),
    level,
    reason: text('Why this level, in words'),
    state: oneOf(
      ['whole', 'merging', 'merged'],
      'merging: a rebase is moving its content on; merged: its file is gone, its content in another',
    ),
    file: text('Name of the file in the folder of the disk'),
    parent: textOrNull('The file that this one builds on, in the same folder'),
    bitmap: v.pipe(
      v.nullable(
        object(
          { name: text('Name of the bitmap'), persistent: flag('It outlives the QEMU process') },
          'The dirty bitmap that records what changes from this file on',
        ),
      ),
      v.description('The dirty bitmap that records what changes from this file on'),
    ),
    virtualSize: count('Size of the disk in bytes'),
    size: count('Length of the file in bytes'),
    allocated: count('Bytes that the file takes on disk'),
    mtimeMs: number('Modification time of the file in milliseconds since 1970'),
    sha256: textOrNull('Digest of the whole file, as earlier versions recorded it; null otherwise'),
    pieces: v.pipe(
      v.nullable(
        object(
          {
            method: oneOf(DIGEST_METHODS, 'How the digest of each piece is made: AES-128-GMAC or SHA-256'),
            bytes: count('Length of each piece but the last, in bytes'),
            sha256: text('SHA-256 of the list of the pieces'),
          },
          'Digest of the file by pieces',
        ),
      ),
      v.description(
        'Digest of the file by pieces: that of the list of the pieces, each on a line of its own; null with --no-digest',
      ),
    ),
    changed: count('Bytes that were copied'),
    durationMs: number('How long copying took, in milliseconds'),
    plaintextOfEncrypted: flag('The disk is encrypted, and this copy is not'),
    compressed: flag('It is compressed'),
    compared: flag(
      'No bitmap told what to copy: the disk was read whole, and what differed from the parent was stored',
    ),
    suspect: v.optional(
      text('Why its content may be wrong although the file is whole; absent where it is not suspect'),
    ),
    source: object(
      {
        device: textOrNull('Device name in QEMU'),
        qdev: textOrNull('Guest device'),
        node: textOrNull('Node name'),
        file: text('Image file of the VM'),
        format: text('Format of that image'),
      },
      'Where the disk was in the VM',
    ),
  },
  'One disk of a point',
);

const definition = object(
  {
    files: listOf(
      object(
        {
          kind: oneOf(['domain', 'live', 'checkpoint', 'nvram', 'tpm'], 'What the file holds'),
          file: text('Name of the file in the folder `definition` of the target'),
          path: textOrNull('Of TPM state: its place below the folder of that state'),
          size: count('Length of the file in bytes'),
          sha256: text('Digest of the file'),
        },
        'A file of the definition',
      ),
      'Its files',
    ),
    autostart: v.pipe(v.nullable(v.boolean()), v.description('Started with the host; null where libvirt did not tell')),
    missing: texts('What could not be kept, in words'),
  },
  'What is kept of a libvirt domain beside its disks; absent of other VMs',
);

export const pointDocumentSchema = object(
  {
    id: text('Id of the point'),
    chain: textOrNull('Id of its chain; null for a copy, which is outside every chain'),
    number: count('Number in the chain, from 0'),
    level,
    createdAt: text('ISO 8601, UTC'),
    consistency: oneOf(
      ['filesystem', 'crash', 'offline'],
      'filesystem: the guest was frozen; crash: as after a power cut; offline: the VM was off',
    ),
    vmStatus: text('Run state of the VM in the words of QEMU'),
    machine: machineSchema,
    disks: listOf(disk, 'Its disks'),
    removed: texts('Disks of the point before that the VM no longer had'),
    lacks: v.optional(
      listOf(lackedDiskSchema, 'Disks that the VM had and the point does not have; absent where there is none'),
    ),
    definition: v.optional(definition),
    pinned: flag('It is neither pruned nor merged away'),
    note: textOrNull('What somebody has written of it'),
  },
  'A restore point',
);

export type PointDocument = v.InferOutput<typeof pointDocumentSchema>;
