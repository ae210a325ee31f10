/**
 * The shapes of QEMU's replies: only the fields that this project reads, as seen on 7.2 and documented up to 10.1. All
 * are loose, for each QEMU version adds fields. What QEMU leaves out when it is empty or false is optional here.
 */
import * as v from 'valibot';

/** `{}`, or text without meaning for us. */
export const anyReply = v.unknown();

/** `running` is false for all of prelaunch, paused, postmigrate, shutdown …; `status` tells which. */
export const statusReply = v.looseObject({ status: v.string(), running: v.boolean() });

/** `{}` for a VM without -name. */
export const nameReply = v.looseObject({ name: v.optional(v.string()) });

/** All zeros for a VM without -uuid. */
export const uuidReply = v.looseObject({ UUID: v.string() });

/** Without `status` where there has been no migration. */
export const migrateReply = v.looseObject({ status: v.optional(v.string()) });

export const versionReply = v.looseObject({
  qemu: v.looseObject({ major: v.number(), minor: v.number(), micro: v.number() }),
  package: v.string(),
});

/** An image as one node sees it, sizes in bytes. */
export const imageInfo = v.looseObject({
  /** A path, or `json:{…}` where a path cannot say it all (filters, keys). */
  filename: v.string(),
  /** The driver of the node: `qcow2`, `raw`, `file`, `throttle`, `copy-before-write` … */
  format: v.string(),
  'virtual-size': v.number(),
  'actual-size': v.optional(v.number()),
  /** Left out by raw and protocol nodes. */
  'cluster-size': v.optional(v.number()),
  encrypted: v.optional(v.boolean()),
  'backing-filename': v.optional(v.string()),
  'full-backing-filename': v.optional(v.string()),
  'backing-filename-format': v.optional(v.string()),
  /** Only on the format node: a filter above it has none. */
  /** In `query-block` only; for a filter it is the image below, which is no backing file. */
  'backing-image': v.optional(v.looseObject({ filename: v.string() })),
  'format-specific': v.optional(
    v.looseObject({
      type: v.string(),
      data: v.optional(
        v.looseObject({
          /** qcow2: `0.10` (v2: no bitmaps) or `1.1`. */
          compat: v.optional(v.string()),
          'data-file': v.optional(v.string()),
          'data-file-raw': v.optional(v.boolean()),
          encrypt: v.optional(v.looseObject({ format: v.string() })),
        }),
      ),
    }),
  ),
});

export const qmpDirtyBitmap = v.looseObject({
  /** Left out by the anonymous bitmaps that a job holds. */
  name: v.optional(v.string()),
  /** Bytes. */
  granularity: v.number(),
  /** Dirty bytes. */
  count: v.number(),
  recording: v.boolean(),
  busy: v.boolean(),
  persistent: v.boolean(),
  /** Present and true after QEMU was killed. */
  inconsistent: v.optional(v.boolean()),
});

/** One node: `inserted` of `query-block`, and a row of `query-named-block-nodes`. */
export const blockNode = v.looseObject({
  'node-name': v.optional(v.string()),
  drv: v.string(),
  ro: v.boolean(),
  /** As `filename` of the image. */
  file: v.string(),
  encrypted: v.optional(v.boolean()),
  cache: v.optional(v.looseObject({ 'no-flush': v.boolean() })),
  backing_file: v.optional(v.string()),
  /** Counts filters too, also those of a running job; 0 throughout in a flat list. */
  backing_file_depth: v.number(),
  /** Left out when there is none. */
  'dirty-bitmaps': v.optional(v.array(qmpDirtyBitmap)),
  image: imageInfo,
});

export const blockDevice = v.looseObject({
  /** The drive's id; empty for a disk of -blockdev. */
  device: v.string(),
  /** A QOM path, or the bare id of the guest device (scsi-hd and ide-hd with an id). Left out when none is attached. */
  qdev: v.optional(v.string()),
  /** Always `unknown`. */
  type: v.string(),
  removable: v.boolean(),
  locked: v.boolean(),
  tray_open: v.optional(v.boolean()),
  'io-status': v.optional(v.string()),
  /** Left out when the drive is empty. */
  inserted: v.optional(blockNode),
});

export const blockReply = v.array(blockDevice);
export const namedBlockNodesReply = v.array(blockNode);

/** Ids are drawn anew for each reply. A block-backend is named as its drive, else as `qdev` of `query-block`. */
export const blockGraphReply = v.looseObject({
  nodes: v.array(v.looseObject({ id: v.number(), type: v.string(), name: v.string() })),
  edges: v.array(
    v.looseObject({
      parent: v.number(),
      child: v.number(),
      name: v.string(),
      /** What the parent may do: `consistent-read`, `write`, `resize` … */
      perm: v.array(v.string()),
    }),
  ),
});

/** `error` is there once the job has failed or was cancelled (`Operation canceled`). */
export const jobsReply = v.array(
  v.looseObject({
    id: v.string(),
    type: v.string(),
    status: v.string(),
    'current-progress': v.number(),
    'total-progress': v.number(),
    error: v.optional(v.string()),
  }),
);

export const blockJobsReply = v.array(
  v.looseObject({
    device: v.string(),
    type: v.string(),
    status: v.string(),
    /** Bytes. */
    len: v.number(),
    offset: v.number(),
    /** Bytes per second; 0 is no limit. */
    speed: v.number(),
    busy: v.boolean(),
    paused: v.boolean(),
    ready: v.boolean(),
    'io-status': v.string(),
    error: v.optional(v.string()),
  }),
);

export const cpusReply = v.array(v.looseObject({ 'cpu-index': v.number(), target: v.string() }));

/** Bytes. */
export const memoryReply = v.looseObject({
  'base-memory': v.number(),
  'plugged-memory': v.optional(v.number()),
});

export const targetReply = v.looseObject({ arch: v.string() });

/** `type` is that of a CPU, `Nehalem-x86_64-cpu`. */
export const hotpluggableReply = v.array(v.looseObject({ type: v.string() }));

export const commandsReply = v.array(v.looseObject({ name: v.string() }));

/** One entry per type, command or event; QEMU numbers the names of types anew in each build. */
export const schemaReply = v.array(
  v.looseObject({
    name: v.string(),
    'meta-type': v.string(),
    'arg-type': v.optional(v.string()),
    /** Of an object its fields, of an enumeration its values, of an alternate its types. */
    members: v.optional(v.array(v.looseObject({ name: v.optional(v.string()), type: v.optional(v.string()) }))),
    /** Which further object comes with each value of the object's tag. */
    variants: v.optional(v.array(v.looseObject({ case: v.string(), type: v.string() }))),
  }),
);

export const exportsReply = v.array(v.looseObject({ id: v.string(), type: v.string() }));

export const tpmsReply = v.array(v.looseObject({ id: v.string(), model: v.string() }));
/** `type` of an object is `child<its model>`. */
export const objectsReply = v.array(v.looseObject({ name: v.string(), type: v.string() }));
export const iothreadsReply = v.array(v.looseObject({ id: v.string() }));

/** HMP's output, with CR LF; its errors are in it too. */
export const textReply = v.string();

export type SchemaEntry = v.InferOutput<typeof schemaReply>[number];
export type StatusReply = v.InferOutput<typeof statusReply>;
export type QmpImageInfo = v.InferOutput<typeof imageInfo>;
export type QmpDirtyBitmap = v.InferOutput<typeof qmpDirtyBitmap>;
export type BlockNode = v.InferOutput<typeof blockNode>;
export type BlockDevice = v.InferOutput<typeof blockDevice>;
export type BlockGraph = v.InferOutput<typeof blockGraphReply>;
export type QmpJobInfo = v.InferOutput<typeof jobsReply>[number];
export type BlockJobInfo = v.InferOutput<typeof blockJobsReply>[number];
