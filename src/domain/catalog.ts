import * as v from 'valibot';
import { isComponent } from './names.js';
import { isPlainPoint } from './plain-point.js';

/**
 * The catalog: the only authority on what is a valid point. `catalog.json` of a target holds exactly this shape;
 * sizes are bytes, times are ISO 8601 in UTC. Names in it are single path components: nothing in a catalog can lead
 * outside its folder.
 */
export const CATALOG_SCHEMA = 1;

const component = v.pipe(v.string(), v.check(isComponent, 'is not a plain file name'));
const bytes = v.pipe(v.number(), v.integer(), v.minValue(0));
const bitmapName = v.pipe(v.string(), v.maxLength(1023));
const text = v.nullable(v.string());
const level = v.picklist(['full', 'inc', 'diff', 'copy']);

const pointDisk = v.object({
  disk: component,
  level,
  /** Why this level, for people. */
  reason: v.string(),
  /** `merging`: a rebase is moving its content on; `merged`: it has moved on and the file is gone. */
  state: v.picklist(['whole', 'merging', 'merged']),
  file: component,
  /** The file this one builds on, in the same folder. */
  parent: v.nullable(component),
  /** Tracks what changed since this file. Only an exact match on the VM makes the file a parent. */
  bitmap: v.nullable(v.object({ name: bitmapName, persistent: v.boolean() })),
  virtualSize: bytes,
  /** Length of the file in bytes. */
  size: bytes,
  /** Bytes the file takes on disk. */
  allocated: bytes,
  /** Modification time in milliseconds, to see a file that was altered. */
  mtimeMs: v.number(),
  sha256: v.nullable(v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/))),
  /** Bytes that the job copied. */
  changed: bytes,
  durationMs: v.pipe(v.number(), v.minValue(0)),
  /** The source was encrypted and this copy is not. */
  plaintextOfEncrypted: v.boolean(),
  compressed: v.boolean(),
  /** Why its content may be wrong although the file is whole: imported from a tool that loses something. */
  suspect: v.optional(v.string()),
  source: v.object({
    device: text,
    qdev: text,
    node: text,
    file: v.string(),
    format: v.string(),
    /** QEMU's own description of the image; null for a file that builds on another, whose line has it: see `describedSource`. */
    image: v.unknown(),
  }),
});

/** A path of plain names, `tpm2/tpm2-00.permall`. */
const innerPath = v.pipe(
  v.string(),
  v.check((value) => value.split('/').every(isComponent), 'is not a plain path'),
);

/** A file in the target's `definition` folder. Its digest is always recorded: these are small. */
const definitionFile = v.object({
  kind: v.picklist(['domain', 'live', 'checkpoint', 'nvram', 'tpm']),
  file: component,
  /** Of TPM state: where it was below the folder of the domain's state. */
  path: v.nullable(innerPath),
  /** Bytes. */
  size: bytes,
  sha256: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/)),
});

/** What was kept of a libvirt domain beside its disks. */
const definition = v.object({
  files: v.array(definitionFile),
  /** Started with the host; null where libvirt did not tell. */
  autostart: v.nullable(v.boolean()),
  /** What could not be read, in words. */
  missing: v.array(v.string()),
});

/** A writable disk that the VM had and the point does not have, by the name it was left out under: never a path. */
const lackedDisk = v.object({
  disk: v.string(),
  /** In words, for people. */
  reason: v.string(),
  /** `rule`: left out by a rule of ours; `failed`: it could not be copied this time; `request`: left out by an option. */
  kind: v.picklist(['rule', 'failed', 'request']),
});

/** Every field of a point and what it may be; `isPlainPoint` is the same, quicker. */
export const pointSchema = v.object({
  /** Attempt id of the run that made it; unique. */
  id: v.string(),
  /** Chain id; null for a copy, which is outside every chain. */
  chain: text,
  number: bytes,
  level,
  createdAt: v.string(),
  consistency: v.picklist(['filesystem', 'crash', 'offline']),
  vmStatus: v.string(),
  machine: v.object({
    name: text,
    uuid: text,
    qemuVersion: v.string(),
    type: text,
    memory: v.nullable(bytes),
    cpus: v.nullable(v.pipe(v.number(), v.integer())),
  }),
  disks: v.pipe(v.array(pointDisk), v.minLength(1)),
  /** Disks of the point before that the VM no longer had. */
  removed: v.array(component),
  /** What the point lacks; absent where it lacks nothing, and in points of before this was recorded. */
  lacks: v.optional(v.array(lackedDisk)),
  /** Of a libvirt domain only. */
  definition: v.optional(definition),
});

/**
 * The quick test first, for a chain may have thousands of points. And a point does not change: what was checked when the
 * catalog was read is not checked again when it is written.
 */
const checkedPoints = new WeakSet<object>();
const checkedPoint = v.custom<Point>(() => true);
const pointOnce = v.lazy((value) =>
  (typeof value === 'object' && value !== null && checkedPoints.has(value)) || isPlainPoint(value)
    ? checkedPoint
    : pointSchema,
);

const catalog = v.pipe(
  v.object({
    schema: v.literal(CATALOG_SCHEMA),
    tool: v.string(),
    targetId: v.pipe(v.string(), v.regex(/^[0-9a-f]{16}$/)),
    createdAt: v.string(),
    vm: v.object({ uuid: text, name: text, label: text }),
    /** In the order in which they were sealed. */
    points: v.array(pointOnce),
    /** Bitmaps of points that left the catalog: ours to remove. */
    retired: v.array(bitmapName),
  }),
  v.rawCheck(({ dataset, addIssue }) => {
    if (!dataset.typed) return;
    const files = new Set<string>();
    for (const { disk, file, state } of dataset.value.points.flatMap((each) => each.disks)) {
      if (state === 'merged') continue;
      const key = `${disk}/${file}`;
      if (files.has(key)) addIssue({ message: `${key} is in it twice` });
      files.add(key);
    }
  }),
);

export type Catalog = v.InferOutput<typeof catalog>;
export type Point = v.InferOutput<typeof pointSchema>;
export type PointDisk = v.InferOutput<typeof pointDisk>;
export type LackedDisk = v.InferOutput<typeof lackedDisk>;
export type PointDefinition = v.InferOutput<typeof definition>;
export type DefinitionFile = v.InferOutput<typeof definitionFile>;
export type Level = v.InferOutput<typeof level>;
export type Consistency = Point['consistency'];
export type DiskSource = PointDisk['source'];

export type CatalogReading =
  | { readonly ok: true; readonly catalog: Catalog }
  /** `newer`: written by a later version of the tool, whose schema we do not know. */
  | { readonly ok: false; readonly newer: boolean; readonly why: string };

/** Checks a parsed `catalog.json`; never throws. */
export function readCatalogValue(value: unknown): CatalogReading {
  const schema = v.safeParse(v.looseObject({ schema: v.number() }), value);
  if (schema.success && schema.output.schema > CATALOG_SCHEMA) {
    return {
      ok: false,
      newer: true,
      why: `its schema is ${schema.output.schema}, this version knows ${CATALOG_SCHEMA}`,
    };
  }
  const result = v.safeParse(catalog, value, { abortEarly: true });
  if (result.success) {
    for (const each of result.output.points) checkedPoints.add(each);
    return { ok: true, catalog: result.output };
  }
  const [first] = result.issues;
  const path = v.getDotPath(first);
  return { ok: false, newer: false, why: path === null ? first.message : `${path}: ${first.message}` };
}

const journalDisk = v.object({
  disk: component,
  /** Name of the attempt's new bitmap, or null where none is added. */
  bitmap: v.nullable(bitmapName),
  job: v.string(),
  file: component,
});

const journal = v.object({
  schema: v.literal(CATALOG_SCHEMA),
  attempt: v.string(),
  startedAt: v.string(),
  /** What the run does, for people. */
  what: v.string(),
  /** Empty where the run has nothing to do with a VM. */
  monitor: v.string(),
  vm: v.object({ uuid: text, name: text, label: text }),
  disks: v.array(journalDisk),
  /** Folders, relative to the target, that the run made. */
  madeFolders: v.array(component),
  /** Agent endpoint, written before the guest is frozen; null when the run does not freeze. */
  freezes: text,
  /** Written before the VM is stopped. */
  stops: v.boolean(),
  /** Folders of the scratch images of fleecing; absolute paths. */
  scratch: v.optional(v.array(v.string()), []),
  /** The run starts QEMU's NBD server. */
  servesNbd: v.optional(v.boolean(), false),
  /** The libvirt domain (UUID) that the run starts, paused, and ends again. */
  starts: v.optional(v.string()),
});

/** `run.json`: what a run may leave behind in QEMU and in the target, written before it changes anything. */
export type Journal = v.InferOutput<typeof journal>;

/** Checks a parsed `run.json`; undefined when it has another shape. */
export function readJournalValue(value: unknown): Journal | undefined {
  const result = v.safeParse(journal, value, { abortEarly: true });
  return result.success ? result.output : undefined;
}
