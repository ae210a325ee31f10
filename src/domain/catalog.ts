import { z } from 'zod';

/**
 * The catalog: the only authority on what is a valid point. `catalog.json` of a target holds exactly this shape;
 * sizes are bytes, times are ISO 8601 in UTC. Names in it are single path components: nothing in a catalog can lead
 * outside its folder.
 */
export const CATALOG_SCHEMA = 1;

// A command reads a catalog once: compiling the schemas first takes longer than reading it (docs/decisions/0001).
z.config({ jitless: true });

const component = z
  .string()
  .max(255)
  .regex(/^[A-Za-z0-9_][A-Za-z0-9._+:@=-]*$/, 'is not a plain file name');
const bytes = z.number().int().nonnegative();
const level = z.enum(['full', 'inc', 'diff', 'copy']);

const pointDisk = z.object({
  disk: component,
  level,
  /** Why this level, for people. */
  reason: z.string(),
  /** `merging`: a rebase is moving its content on; `merged`: it has moved on and the file is gone. */
  state: z.enum(['whole', 'merging', 'merged']),
  file: component,
  /** The file this one builds on, in the same folder. */
  parent: component.nullable(),
  /** Tracks what changed since this file. Only an exact match on the VM makes the file a parent. */
  bitmap: z.object({ name: z.string().max(1023), persistent: z.boolean() }).nullable(),
  virtualSize: bytes,
  /** Length of the file in bytes. */
  size: bytes,
  /** Bytes the file takes on disk. */
  allocated: bytes,
  /** Modification time in milliseconds, to see a file that was altered. */
  mtimeMs: z.number(),
  sha256: z
    .string()
    .regex(/^[0-9a-f]{64}$/)
    .nullable(),
  /** Bytes that the job copied. */
  changed: bytes,
  durationMs: z.number().nonnegative(),
  /** The source was encrypted and this copy is not. */
  plaintextOfEncrypted: z.boolean(),
  compressed: z.boolean(),
  source: z.object({
    device: z.string().nullable(),
    qdev: z.string().nullable(),
    node: z.string().nullable(),
    file: z.string(),
    format: z.string(),
    image: z.unknown(),
  }),
});

const point = z.object({
  /** Attempt id of the run that made it; unique. */
  id: z.string(),
  /** Chain id; null for a copy, which is outside every chain. */
  chain: z.string().nullable(),
  number: z.number().int().nonnegative(),
  level,
  createdAt: z.string(),
  consistency: z.enum(['filesystem', 'crash', 'offline']),
  vmStatus: z.string(),
  machine: z.object({
    name: z.string().nullable(),
    uuid: z.string().nullable(),
    qemuVersion: z.string(),
    type: z.string().nullable(),
    memory: bytes.nullable(),
    cpus: z.number().int().nullable(),
  }),
  disks: z.array(pointDisk).min(1),
  /** Disks of the point before that the VM no longer had. */
  removed: z.array(component),
});

const catalog = z
  .object({
    schema: z.literal(CATALOG_SCHEMA),
    tool: z.string(),
    targetId: z.string().regex(/^[0-9a-f]{16}$/),
    createdAt: z.string(),
    vm: z.object({ uuid: z.string().nullable(), name: z.string().nullable(), label: z.string().nullable() }),
    /** In the order in which they were sealed. */
    points: z.array(point),
    /** Bitmaps of points that left the catalog: ours to remove. */
    retired: z.array(z.string().max(1023)),
  })
  .superRefine((value, context) => {
    const files = new Set<string>();
    for (const { disk, file, state } of value.points.flatMap((each) => each.disks)) {
      if (state === 'merged') continue;
      const key = `${disk}/${file}`;
      if (files.has(key)) context.addIssue({ code: 'custom', message: `${key} is in it twice` });
      files.add(key);
    }
  });

export type Catalog = z.infer<typeof catalog>;
export type Point = z.infer<typeof point>;
export type PointDisk = z.infer<typeof pointDisk>;
export type Level = z.infer<typeof level>;
export type Consistency = Point['consistency'];
export type DiskSource = PointDisk['source'];

export type CatalogReading =
  | { readonly ok: true; readonly catalog: Catalog }
  /** `newer`: written by a later version of the tool, whose schema we do not know. */
  | { readonly ok: false; readonly newer: boolean; readonly why: string };

/** Checks a parsed `catalog.json`; never throws. */
export function readCatalogValue(value: unknown): CatalogReading {
  const schema = z.looseObject({ schema: z.number() }).safeParse(value);
  if (schema.success && schema.data.schema > CATALOG_SCHEMA) {
    return { ok: false, newer: true, why: `its schema is ${schema.data.schema}, this version knows ${CATALOG_SCHEMA}` };
  }
  const result = catalog.safeParse(value);
  if (result.success) return { ok: true, catalog: result.data };
  const first = result.error.issues[0];
  return { ok: false, newer: false, why: first ? `${first.path.join('.')}: ${first.message}` : 'unknown shape' };
}

const journalDisk = z.object({
  disk: component,
  /** Name of the attempt's new bitmap, or null where none is added. */
  bitmap: z.string().max(1023).nullable(),
  job: z.string(),
  file: component,
});

const journal = z.object({
  schema: z.literal(CATALOG_SCHEMA),
  attempt: z.string(),
  startedAt: z.string(),
  /** What the run does, for people. */
  what: z.string(),
  monitor: z.string(),
  vm: z.object({ uuid: z.string().nullable(), name: z.string().nullable(), label: z.string().nullable() }),
  disks: z.array(journalDisk),
  /** Folders, relative to the target, that the run made. */
  madeFolders: z.array(component),
  /** Agent endpoint, written before the guest is frozen; null when the run does not freeze. */
  freezes: z.string().nullable(),
  /** Written before the VM is stopped. */
  stops: z.boolean(),
});

/** `run.json`: what a run may leave behind in QEMU and in the target, written before it changes anything. */
export type Journal = z.infer<typeof journal>;

/** Checks a parsed `run.json`; undefined when it has another shape. */
export function readJournalValue(value: unknown): Journal | undefined {
  const result = journal.safeParse(value);
  return result.success ? result.data : undefined;
}
