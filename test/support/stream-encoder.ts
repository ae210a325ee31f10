import { execFileSync } from 'node:child_process';

/**
 * Writes streams as virtnbdbackup does, by the description in docs/virtnbdbackup-format.md, so that imports can be tested
 * without that tool.
 */
export type EncodedRecord =
  | { readonly kind: 'data'; readonly offset: number; readonly bytes: Uint8Array }
  | { readonly kind: 'zero'; readonly offset: number; readonly length: number };

export interface StreamToEncode {
  readonly disk: string;
  readonly virtualSize: number;
  readonly checkpoint: string;
  readonly parent?: string;
  readonly incremental?: boolean;
  readonly date?: string;
  readonly records: readonly EncodedRecord[];
  /** Makes one LZ4 frame; absent for a plain stream. */
  readonly frame?: (bytes: Uint8Array) => Uint8Array;
  /** Records of this many bytes or more are cut into frames of it, as that tool cuts what its NBD server refuses. */
  readonly maxRequest?: number;
  /** Replaces fields of the metadata. */
  readonly meta?: Readonly<Record<string, unknown>>;
}

export function encodeStream(stream: StreamToEncode): Buffer {
  const { records, frame, maxRequest = 32 * 1024 * 1024 } = stream;
  const dataSize = records.reduce((sum, each) => sum + (each.kind === 'data' ? each.bytes.length : 0), 0);
  const meta = Buffer.from(JSON.stringify({ ...metaOf(stream, dataSize), ...stream.meta }, null, 4));
  const parts: Uint8Array[] = [record('meta', 0, meta.length), meta, LINE_END];
  const sizes: unknown[] = [];
  for (const each of records) {
    if (each.kind === 'zero') {
      parts.push(record('zero', each.offset, each.length));
      continue;
    }
    parts.push(record('data', each.offset, each.bytes.length));
    if (!frame) parts.push(each.bytes);
    else {
      const chunked = each.bytes.length >= maxRequest;
      const frames = pieces(each.bytes, chunked ? maxRequest : each.bytes.length).map(frame);
      const total = frames.reduce((sum, { length }) => sum + length, 0);
      sizes.push(chunked ? { [total]: frames.map(({ length }) => length) } : total);
      parts.push(...frames);
    }
    parts.push(LINE_END);
  }
  parts.push(record('stop', 0, 0));
  if (frame) {
    const list = Buffer.from(JSON.stringify(sizes));
    parts.push(list, LINE_END, record('comp', 0, list.length));
  }
  return Buffer.concat(parts);
}

export function record(kind: string, offset: number, length: number): Buffer {
  return Buffer.from(`${kind} ${hex(offset)} ${hex(length)}\r\n`, 'latin1');
}

/** A frame with both checksums and its length, as that tool has them made, by the reference program. */
export function lz4Frame(bytes: Uint8Array): Buffer {
  // Blocks that depend on each other, of 64 KiB, each with a checksum.
  return execFileSync('lz4', ['-q', '-c', '-B4', '-BD', '-BX', '--content-size'], { input: bytes, maxBuffer: 2 ** 30 });
}

const LINE_END = Buffer.from('\r\n');

function metaOf({ disk, virtualSize, checkpoint, parent, incremental, date, frame }: StreamToEncode, dataSize: number) {
  return {
    virtualSize,
    dataSize,
    date: date ?? '2024-11-20T10:00:00.000001',
    diskName: disk,
    diskFormat: 'qcow2',
    checkpointName: checkpoint,
    compressed: frame ? 2 : false,
    compressionMethod: 'lz4',
    parentCheckpoint: parent ?? '',
    incremental: incremental ?? false,
    streamVersion: 2,
  };
}

function hex(value: number): string {
  return value.toString(16).padStart(16, '0');
}

function pieces(bytes: Uint8Array, size: number): Uint8Array[] {
  return Array.from({ length: Math.ceil(bytes.length / size) }, (_, index) =>
    bytes.subarray(index * size, (index + 1) * size),
  );
}
