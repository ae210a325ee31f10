import { QmpBackupError } from '../errors.js';
import { atMost, exactly, type Parser } from './byte-feed.js';
import { lz4Frame } from './lz4-frame.js';
import { parseStreamMeta, type StreamMeta } from './stream-meta.js';

/**
 * Decodes a stream of virtnbdbackup: metadata, then records of data and zeros in the order of the disk, then a stop. What
 * is announced is held against what comes: nothing is believed that would lead outside the disk or take memory without
 * bound. See `docs/virtnbdbackup-format.md`.
 */
export type StreamEvent =
  | { readonly kind: 'meta'; readonly meta: StreamMeta }
  /** `bytes` is valid until the next event. */
  | { readonly kind: 'data'; readonly offset: number; readonly bytes: Uint8Array }
  | { readonly kind: 'zero'; readonly offset: number; readonly length: number }
  | { readonly kind: 'end'; readonly zeroRecords: number };

export interface StreamRecord {
  readonly kind: 'meta' | 'data' | 'zero' | 'stop' | 'comp';
  /** Bytes; where on the disk. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
}

/** Bytes of the line that every record begins with. */
export const RECORD_BYTES = 40;
/** Bytes between the end of a compressed stream's list of sizes and the end of the file: line end and last record. */
export const TRAILER_END_BYTES = 2 + RECORD_BYTES;
export const META_LIMIT = 1024 * 1024;
/** A number for each extent of a disk: megabytes for the largest. */
const TRAILER_LIMIT = 64 * 1024 * 1024;
/** Bytes that are handed on at once. */
const PIECE = 1024 * 1024;

/** @throws QmpBackupError `damaged` */
export function parseRecord(line: Uint8Array): StreamRecord {
  const match = /^(meta|data|zero|stop|comp) ([0-9a-f]{16}) ([0-9a-f]{16})\r\n$/.exec(latin1(line));
  if (!match) throw damaged('there is no record where one must begin');
  const kind = match[1] as StreamRecord['kind'];
  return { kind, offset: parseInt(match[2] ?? '', 16), length: parseInt(match[3] ?? '', 16) };
}

/** The metadata alone, for a look at a stream. */
export function* streamMeta(): Parser<never, StreamMeta> {
  const { kind, length } = parseRecord(yield* exactly(RECORD_BYTES));
  if (kind !== 'meta') throw damaged('it does not begin with its metadata');
  if (length > META_LIMIT) throw damaged(`its metadata would have ${length} bytes`);
  const meta = parseStreamMeta(utf8(yield* exactly(length)));
  yield* lineEnd();
  return meta;
}

/** @throws QmpBackupError `damaged`, and as `parseStreamMeta` */
export function* sparseStream(): Parser<StreamEvent> {
  const meta = yield* streamMeta();
  yield { kind: 'meta', meta };
  const sizes: number[] = [];
  let [end, dataBytes, zeroRecords] = [0, 0, 0];
  for (;;) {
    const record = parseRecord(yield* exactly(RECORD_BYTES));
    if (record.kind === 'stop') break;
    if (record.kind !== 'data' && record.kind !== 'zero') throw damaged(`a record "${record.kind}" within the data`);
    refuseOutside(record, end, meta);
    end = record.offset + record.length;
    if (record.kind === 'zero') {
      zeroRecords += 1;
      yield { kind: 'zero', offset: record.offset, length: record.length };
      continue;
    }
    dataBytes += record.length;
    if (meta.compressed) sizes.push(yield* compressedData(record));
    else yield* plainData(record);
    yield* lineEnd();
  }
  if (dataBytes !== meta.dataSize)
    throw damaged(`it holds ${dataBytes} bytes of data, not ${meta.dataSize} as it says`);
  if (meta.compressed) yield* trailer(sizes);
  yield { kind: 'end', zeroRecords };
}

function refuseOutside({ kind, offset, length }: StreamRecord, end: number, { virtualSize }: StreamMeta): void {
  if (length === 0) throw damaged(`a record "${kind}" of nothing at ${offset}`);
  if (offset + length > virtualSize) {
    throw damaged(`a record of ${length} bytes at ${offset} leads beyond the disk of ${virtualSize}`);
  }
  if (offset < end) throw damaged(`the records up to ${end} and at ${offset} overlap`);
}

function* plainData({ offset, length }: StreamRecord): Parser<StreamEvent> {
  for (let done = 0; done < length;) {
    const bytes = yield* atMost(Math.min(length - done, PIECE));
    yield { kind: 'data', offset: offset + done, bytes };
    done += bytes.length;
  }
}

/** One or more frames; returns the bytes that they take in the stream. */
function* compressedData({ offset, length }: StreamRecord): Parser<StreamEvent, number> {
  let [taken, done] = [0, 0];
  while (done < length) {
    let at = offset + done;
    const frame = yield* lz4Frame<StreamEvent>(length - done, (bytes) => {
      const event: StreamEvent = { kind: 'data', offset: at, bytes };
      at += bytes.length;
      return event;
    });
    if (frame.content === 0) throw damaged(`an empty LZ4 frame at ${at}`);
    taken += frame.length;
    done += frame.content;
  }
  return taken;
}

/** The list of what each data record takes compressed; how long it is, is said only behind it. */
function* trailer(sizes: readonly number[]): Parser<never> {
  let text = '';
  for (;;) {
    const line = latin1(yield* exactly(1));
    text += line;
    if (text.length > TRAILER_LIMIT) throw damaged('its list of compressed sizes has no end');
    if (text.endsWith('\r\n')) break;
  }
  const { kind, length } = parseRecord(yield* exactly(RECORD_BYTES));
  if (kind !== 'comp' || length !== text.length - 2) throw damaged('its list of compressed sizes has no end');
  const listed = sizesIn(text);
  if (listed?.length !== sizes.length || sizes.some((size, index) => listed[index] !== size)) {
    throw damaged('its list of compressed sizes is not that of its data');
  }
}

/** A record's size as a number, or `{ "<size>": [sizes of its frames] }`. */
function sizesIn(text: string): readonly number[] | undefined {
  try {
    const list = JSON.parse(text) as unknown;
    if (!Array.isArray(list)) return undefined;
    return list.map((each: unknown) =>
      typeof each === 'object' && each !== null ? Number(Object.keys(each)[0] ?? Number.NaN) : Number(each),
    );
  } catch {
    return undefined;
  }
}

function* lineEnd(): Parser<never> {
  if (latin1(yield* exactly(2)) !== '\r\n') throw damaged('a record does not end where it should');
}

function latin1(bytes: Uint8Array): string {
  return String.fromCharCode(...bytes);
}

function utf8(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

function damaged(why: string): QmpBackupError {
  return new QmpBackupError('damaged', why);
}
