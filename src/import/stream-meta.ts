import * as v from 'valibot';
import { isComponent } from '../core/names.js';
import { QmpBackupError } from '../errors.js';

/** The first record of a stream of virtnbdbackup: what it says of itself. See `docs/virtnbdbackup-format.md`. */
export interface StreamMeta {
  /** The disk as libvirt calls it: `vda`. */
  readonly disk: string;
  /** Bytes. */
  readonly virtualSize: number;
  /** Bytes of disk content that its data records hold. */
  readonly dataSize: number;
  /** Local time of the host that wrote it, ISO 8601 without a zone. */
  readonly date: string;
  /** `qcow2` …, or null in the oldest streams. */
  readonly format: string | null;
  /** The checkpoint that this backup made; for a diff and a copy, one that it did not make. */
  readonly checkpoint: string;
  /** The checkpoint since which it has the changes; null for a whole backup. */
  readonly parent: string | null;
  readonly incremental: boolean;
  /** Its data is LZ4 frames. */
  readonly compressed: boolean;
}

const NEWEST_VERSION = 2;

const bytes = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const name = v.pipe(v.string(), v.check(isComponent, 'is not a plain name'));

const metadata = v.object({
  virtualSize: v.pipe(bytes, v.minValue(1)),
  dataSize: bytes,
  date: v.pipe(v.string(), v.regex(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?$/)),
  diskName: name,
  diskFormat: v.optional(v.pipe(v.string(), v.maxLength(64))),
  checkpointName: name,
  parentCheckpoint: v.nullish(v.union([v.literal(''), v.literal(false), name])),
  incremental: v.boolean(),
  compressed: v.optional(v.union([v.boolean(), v.number()]), false),
  compressionMethod: v.optional(v.string()),
  streamVersion: v.optional(v.number()),
  'stream-version': v.optional(v.number()),
});

/** @throws QmpBackupError `damaged` for what is no such metadata, `unsafe` for a version that is not known here */
export function parseStreamMeta(text: string): StreamMeta {
  const result = v.safeParse(metadata, jsonOf(text), { abortEarly: true });
  if (!result.success) {
    const [issue] = result.issues;
    throw new QmpBackupError('damaged', `its metadata is damaged: ${v.getDotPath(issue) ?? 'it'}: ${issue.message}`);
  }
  const { output } = result;
  const version = output.streamVersion ?? output['stream-version'] ?? 1;
  // Level 0 is a level of compression too; only `false` is none.
  const compressed = output.compressed !== false;
  const method = output.compressionMethod ?? 'lz4';
  if (version > NEWEST_VERSION || (compressed && method !== 'lz4')) {
    const what = version > NEWEST_VERSION ? `version ${version}` : `compression by ${method.slice(0, 40)}`;
    throw new QmpBackupError('unsafe', `it is a stream with ${what}, which is not known here`);
  }
  return {
    disk: output.diskName,
    virtualSize: output.virtualSize,
    dataSize: output.dataSize,
    date: output.date,
    format: output.diskFormat ?? null,
    checkpoint: output.checkpointName,
    parent:
      output.parentCheckpoint === false || output.parentCheckpoint === '' ? null : (output.parentCheckpoint ?? null),
    incremental: output.incremental,
    compressed,
  };
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new QmpBackupError('damaged', 'its metadata is no JSON');
  }
}
