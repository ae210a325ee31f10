/**
 * The shapes of QEMU's replies: only the fields that this project reads, as seen on 7.2 and documented up to 10.1. All
 * are loose, for each QEMU version adds fields. What QEMU leaves out when it is empty or false is optional here.
 */
import * as z from 'zod';

// A command reads each reply a few times: compiling the schemas first takes longer (docs/decisions/0001).
z.config({ jitless: true });

/** `{}`, or text without meaning for us. */
export const anyReply = z.unknown();

/** `running` is false for all of prelaunch, paused, postmigrate, shutdown …; `status` tells which. */
export const statusReply = z.looseObject({ status: z.string(), running: z.boolean() });

/** `{}` for a VM without -name. */
export const nameReply = z.looseObject({ name: z.string().optional() });

/** All zeros for a VM without -uuid. */
export const uuidReply = z.looseObject({ UUID: z.string() });

export const versionReply = z.looseObject({
  qemu: z.looseObject({ major: z.number(), minor: z.number(), micro: z.number() }),
  package: z.string(),
});

/** An image as one node sees it, sizes in bytes. */
export const imageInfo = z.looseObject({
  /** A path, or `json:{…}` where a path cannot say it all (filters, keys). */
  filename: z.string(),
  /** The driver of the node: `qcow2`, `raw`, `file`, `throttle`, `copy-before-write` … */
  format: z.string(),
  'virtual-size': z.number(),
  'actual-size': z.number().optional(),
  /** Left out by raw and protocol nodes. */
  'cluster-size': z.number().optional(),
  encrypted: z.boolean().optional(),
  'backing-filename': z.string().optional(),
  'full-backing-filename': z.string().optional(),
  'backing-filename-format': z.string().optional(),
  /** Only on the format node: a filter above it has none. */
  'format-specific': z
    .looseObject({
      type: z.string(),
      data: z
        .looseObject({
          /** qcow2: `0.10` (v2: no bitmaps) or `1.1`. */
          compat: z.string().optional(),
          'data-file': z.string().optional(),
          'data-file-raw': z.boolean().optional(),
          encrypt: z.looseObject({ format: z.string() }).optional(),
        })
        .optional(),
    })
    .optional(),
  /** In `query-block` only; for a filter it is the image below, which is no backing file. */
  get 'backing-image'() {
    return imageInfo.optional();
  },
});

export const dirtyBitmap = z.looseObject({
  /** Left out by the anonymous bitmaps that a job holds. */
  name: z.string().optional(),
  /** Bytes. */
  granularity: z.number(),
  /** Dirty bytes. */
  count: z.number(),
  recording: z.boolean(),
  busy: z.boolean(),
  persistent: z.boolean(),
  /** Present and true after QEMU was killed. */
  inconsistent: z.boolean().optional(),
});

/** One node: `inserted` of `query-block`, and a row of `query-named-block-nodes`. */
export const blockNode = z.looseObject({
  'node-name': z.string().optional(),
  drv: z.string(),
  ro: z.boolean(),
  /** As `filename` of the image. */
  file: z.string(),
  encrypted: z.boolean().optional(),
  backing_file: z.string().optional(),
  /** Counts filters too, also those of a running job; 0 throughout in a flat list. */
  backing_file_depth: z.number(),
  /** Left out when there is none. */
  'dirty-bitmaps': z.array(dirtyBitmap).optional(),
  image: imageInfo,
});

export const blockDevice = z.looseObject({
  /** The drive's id; empty for a disk of -blockdev. */
  device: z.string(),
  /** A QOM path, or the bare id of the guest device (scsi-hd and ide-hd with an id). Left out when none is attached. */
  qdev: z.string().optional(),
  /** Always `unknown`. */
  type: z.string(),
  removable: z.boolean(),
  locked: z.boolean(),
  tray_open: z.boolean().optional(),
  'io-status': z.string().optional(),
  /** Left out when the drive is empty. */
  inserted: blockNode.optional(),
});

export const blockReply = z.array(blockDevice);
export const namedBlockNodesReply = z.array(blockNode);

/** Ids are drawn anew for each reply. A block-backend is named as its drive, else as `qdev` of `query-block`. */
export const blockGraphReply = z.looseObject({
  nodes: z.array(z.looseObject({ id: z.number(), type: z.string(), name: z.string() })),
  edges: z.array(z.looseObject({ parent: z.number(), child: z.number(), name: z.string() })),
});

/** `error` is there once the job has failed or was cancelled (`Operation canceled`). */
export const jobsReply = z.array(
  z.looseObject({
    id: z.string(),
    type: z.string(),
    status: z.string(),
    'current-progress': z.number(),
    'total-progress': z.number(),
    error: z.string().optional(),
  }),
);

export const blockJobsReply = z.array(
  z.looseObject({
    device: z.string(),
    type: z.string(),
    status: z.string(),
    /** Bytes. */
    len: z.number(),
    offset: z.number(),
    /** Bytes per second; 0 is no limit. */
    speed: z.number(),
    busy: z.boolean(),
    paused: z.boolean(),
    ready: z.boolean(),
    'io-status': z.string(),
    error: z.string().optional(),
  }),
);

export const cpusReply = z.array(z.looseObject({ 'cpu-index': z.number(), target: z.string() }));

/** Bytes. */
export const memoryReply = z.looseObject({
  'base-memory': z.number(),
  'plugged-memory': z.number().optional(),
});

export const commandsReply = z.array(z.looseObject({ name: z.string() }));

/** One entry per type, command or event; QEMU numbers the names of types anew in each build. */
export const schemaReply = z.array(
  z.looseObject({
    name: z.string(),
    'meta-type': z.string(),
    'arg-type': z.string().optional(),
    members: z.array(z.looseObject({ name: z.string().optional() })).optional(),
  }),
);

/** HMP's output, with CR LF; its errors are in it too. */
export const textReply = z.string();

export type StatusReply = z.infer<typeof statusReply>;
export type ImageInfo = z.infer<typeof imageInfo>;
export type DirtyBitmap = z.infer<typeof dirtyBitmap>;
export type BlockNode = z.infer<typeof blockNode>;
export type BlockDevice = z.infer<typeof blockDevice>;
export type BlockGraph = z.infer<typeof blockGraphReply>;
export type JobInfo = z.infer<typeof jobsReply>[number];
export type BlockJobInfo = z.infer<typeof blockJobsReply>[number];
