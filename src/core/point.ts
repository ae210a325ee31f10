import * as v from 'valibot';
import type { DiskNames } from './disk.js';
import { hardwareSchema } from './hardware.js';
import { levelSchema } from './level.js';
import { isComponent } from './names.js';
import { isNote } from './note.js';
import { DIGEST_METHODS } from './pieces.js';
import type { ReadOnly } from './read-only.js';

export const componentSchema = v.pipe(v.string(), v.check(isComponent, 'is not a plain file name'));

export const bytesSchema = v.pipe(v.number(), v.integer(), v.minValue(0));

export const bitmapNameSchema = v.pipe(v.string(), v.maxLength(1023));

export const textSchema = v.nullable(v.string());

const digestSchema = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/));

/** See `PieceDigest`. */
const piecesSchema = v.object({
  bytes: v.pipe(bytesSchema, v.minValue(65536)),
  sha256: digestSchema,
  method: v.optional(v.picklist(DIGEST_METHODS)),
});

/** In the order in which they are written, as `isPlainLine` has it. */
export const pointDisk = v.object({
  disk: componentSchema,
  level: levelSchema,
  /** Why this level, for people. */
  reason: v.string(),
  /** `merging`: a rebase is moving its content on; `merged`: it has moved on and the file is gone. */
  state: v.picklist(['whole', 'merging', 'merged']),
  file: componentSchema,
  /** The file this one builds on, in the same folder. */
  parent: v.nullable(componentSchema),
  /**
   * Its header names another file, which was merged into `parent`. With the digest that it has once it names `parent`; none
   * where it has no digest, or cannot be given that link. See `settleLinks`.
   */
  link: v.optional(v.object({ name: componentSchema, pieces: v.optional(piecesSchema) })),
  /** Tracks what changed since this file. Only an exact match on the VM makes the file a parent. */
  bitmap: v.nullable(v.object({ name: bitmapNameSchema, persistent: v.boolean() })),
  virtualSize: bytesSchema,
  /** The source was encrypted and this copy is not. */
  plaintextOfEncrypted: v.boolean(),
  source: v.object({
    device: textSchema,
    qdev: textSchema,
    node: textSchema,
    file: v.string(),
    format: v.string(),
    /** QEMU's own description of the image; null for a file that builds on another, whose line has it: see `describedSource`. */
    image: v.unknown(),
  }),
  /** Length of the file in bytes. */
  size: bytesSchema,
  /** Bytes the file takes on disk. */
  allocated: bytesSchema,
  /** Modification time in milliseconds, to see a file that was altered. */
  mtimeMs: v.number(),
  /** Of the whole file: what earlier versions recorded. */
  sha256: v.nullable(digestSchema),
  pieces: v.optional(piecesSchema),
  /** Bytes that the job copied. */
  changed: bytesSchema,
  durationMs: v.pipe(v.number(), v.minValue(0)),
  compressed: v.boolean(),
  /** No bitmap told what to copy: all of the disk was read, and what differed from `parent` stored. An older version drops the word. */
  compared: v.optional(v.literal(true)),
  /** Why its content may be wrong although the file is whole: imported from a tool that loses something. */
  suspect: v.optional(v.string()),
});

/** A path of plain names, `tpm2/tpm2-00.permall`. */
export const innerPath = v.pipe(
  v.string(),
  v.check((value) => value.split('/').every(isComponent), 'is not a plain path'),
);

/** A file in the target's `definition` folder. Its digest is always recorded: these are small. */
export const definitionFile = v.object({
  kind: v.picklist(['domain', 'live', 'checkpoint', 'nvram', 'tpm']),
  file: componentSchema,
  /** Of TPM state: where it was below the folder of the domain's state. */
  path: v.nullable(innerPath),
  /** Bytes. */
  size: bytesSchema,
  sha256: digestSchema,
});

/** What was kept of a libvirt domain beside its disks. */
export const definition = v.object({
  files: v.array(definitionFile),
  /** Started with the host; null where libvirt did not tell. */
  autostart: v.nullable(v.boolean()),
  /** What could not be read, in words. */
  missing: v.array(v.string()),
});

/** A writable disk that the VM had and the point does not have, by the name it was left out under: never a path. */
export const lackedDisk = v.object({
  disk: v.string(),
  /** In words, for people. */
  reason: v.string(),
  /** `rule`: left out by a rule of ours; `failed`: it could not be copied this time; `request`: left out by an option. */
  kind: v.picklist(['rule', 'failed', 'request']),
});

/** Every field of a point and what it may be; `isPlainLine` is the same, quicker. */
export const pointSchema = v.object({
  /** Attempt id of the run that made it; unique. */
  id: v.string(),
  /** Chain id; null for a copy, which is outside every chain. */
  chain: textSchema,
  number: bytesSchema,
  level: levelSchema,
  createdAt: v.string(),
  consistency: v.picklist(['filesystem', 'crash', 'offline']),
  vmStatus: v.string(),
  machine: v.object({
    name: textSchema,
    uuid: textSchema,
    qemuVersion: v.string(),
    type: textSchema,
    memory: v.nullable(bytesSchema),
    cpus: v.nullable(v.pipe(v.number(), v.integer())),
    /** Only where it is not as at the point before of its chain: see `recordedHardware`. */
    hardware: v.optional(hardwareSchema),
  }),
  disks: v.pipe(v.array(pointDisk), v.minLength(1)),
  /** Disks of the point before that the VM no longer had. */
  removed: v.array(componentSchema),
  /** What the point lacks; absent where it lacks nothing, and in points of before this was recorded. */
  lacks: v.optional(v.array(lackedDisk)),
  /** Of a libvirt domain only. */
  definition: v.optional(definition),
  /** Never pruned, nor merged away; absent where it is not. */
  pinned: v.optional(v.literal(true)),
  /** What somebody has written of it. */
  note: v.optional(v.pipe(v.string(), v.check(isNote, 'is no note'))),
});

export type Point = ReadOnly<v.InferOutput<typeof pointSchema>>;

export type PointDisk = ReadOnly<v.InferOutput<typeof pointDisk>>;

export type LackedDisk = ReadOnly<v.InferOutput<typeof lackedDisk>>;

export type PointDefinition = ReadOnly<v.InferOutput<typeof definition>>;

export type DefinitionFile = ReadOnly<v.InferOutput<typeof definitionFile>>;

export type Consistency = Point['consistency'];

export type DiskSource = PointDisk['source'];

/** Recorded names identify a disk; they never address it. */
export function recordedNames({ device, qdev, node, file }: DiskSource): DiskNames {
  return { device, qdev, address: node, file };
}

/** The file that the header of an image names as the one it builds on. */
export function linkOf({ link, parent }: Pick<PointDisk, 'link' | 'parent'>): string | null {
  return link?.name ?? parent;
}
