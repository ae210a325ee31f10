/**
 * The numbers and byte layouts of NBD, as the protocol text of the NBD project (doc/proto.md) gives them. All integers
 * are big-endian. Pure: bytes in, bytes out.
 */

/** What the server says first. */
export const MAGIC = Buffer.from('NBDMAGIC');
export const MAGIC_NEWSTYLE = Buffer.from('IHAVEOPT');
export const MAGIC_OLDSTYLE = Buffer.from('0000420281861253', 'hex');
export const HANDSHAKE_FIXED_NEWSTYLE = 1;
export const HANDSHAKE_NO_ZEROES = 2;

export const Option = { abort: 2, go: 7, structuredReply: 8, setMetaContext: 10 } as const;
export const OptionReply = { ack: 1, info: 3, metaContext: 4 } as const;
export const OPTION_ERROR = 0x8000_0000;
export const OptionError = {
  unsupported: OPTION_ERROR + 1,
  policy: OPTION_ERROR + 2,
  tlsRequired: OPTION_ERROR + 5,
  unknown: OPTION_ERROR + 6,
} as const;
export const Info = { export: 0, blockSize: 3 } as const;
const OPTION_REPLY_MAGIC = 0x0003e889045565a9n;

/** Transmission flags of an export. */
export const ExportFlag = { readOnly: 2, sendFlush: 4, sendWriteZeroes: 64 } as const;

export const NbdCommand = { read: 0, write: 1, disconnect: 2, flush: 3, writeZeroes: 6, blockStatus: 7 } as const;
export type NbdCommand = (typeof NbdCommand)[keyof typeof NbdCommand];

export const REQUEST_MAGIC = 0x25609513;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;

export const ChunkType = { none: 0, offsetData: 1, offsetHole: 2, blockStatus: 5, error: 0x8001, errorOffset: 0x8002 };
/** Chunks of this bit are errors, also those that are not known here. */
export const CHUNK_ERROR = 0x8000;
export const CHUNK_DONE = 1;

/** Lengths in requests have 32 bits. */
export const MAX_LENGTH = 0xffff_ffff;
/** More payload in one request than this no server need take. */
export const MAX_PAYLOAD = 32 * 1024 * 1024;

export interface NbdRequest {
  readonly command: NbdCommand;
  readonly cookie: bigint;
  /** Bytes. */
  readonly offset: number;
  readonly length: number;
}

/** The 28 bytes of a request; a write's payload follows them. No command flags are ever set. */
export function encodeRequest({ command, cookie, offset, length }: NbdRequest): Buffer {
  const bytes = Buffer.alloc(28);
  bytes.writeUInt32BE(REQUEST_MAGIC, 0);
  bytes.writeUInt16BE(command, 6);
  bytes.writeBigUInt64BE(cookie, 8);
  bytes.writeBigUInt64BE(BigInt(offset), 16);
  bytes.writeUInt32BE(length, 24);
  return bytes;
}

export function encodeOption(option: number, data: Buffer = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(16);
  MAGIC_NEWSTYLE.copy(head);
  head.writeUInt32BE(option, 8);
  head.writeUInt32BE(data.length, 12);
  return Buffer.concat([head, data]);
}

export interface OptionReplyHead {
  readonly option: number;
  readonly type: number;
  readonly length: number;
}

export const OPTION_REPLY_BYTES = 20;

/** Undefined for bytes that are no reply to an option. */
export function decodeOptionReply(bytes: Buffer): OptionReplyHead | undefined {
  if (bytes.readBigUInt64BE(0) !== OPTION_REPLY_MAGIC) return undefined;
  return { option: bytes.readUInt32BE(8), type: bytes.readUInt32BE(12), length: bytes.readUInt32BE(16) };
}

/** A text with its length (32 bits) before it. */
export function encodeText(text: string): Buffer {
  const bytes = Buffer.from(text);
  return Buffer.concat([encodeUint32(bytes.length), bytes]);
}

export function encodeUint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export function encodeUint16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

const ERRNO_NAMES: Readonly<Record<number, string>> = {
  1: 'EPERM',
  5: 'EIO',
  12: 'ENOMEM',
  22: 'EINVAL',
  28: 'ENOSPC',
  75: 'EOVERFLOW',
  95: 'ENOTSUP',
  108: 'ESHUTDOWN',
};

export function errnoName(errno: number): string {
  return ERRNO_NAMES[errno] ?? `errno ${errno}`;
}

/**
 * Incoming bytes as straight-line code: a generator yields the buffer that the next bytes of the peer belong into, and
 * goes on when it is full. So payload lands where it is wanted, without a copy, however the bytes are split.
 */
export type Reader<Result> = Generator<Buffer, Result, undefined>;

/** Feeds a `Reader` from any source of bytes. What the reader throws, `start` and `received` throw. */
export class Intake {
  readonly #reader: Reader<void>;
  #buffer: Buffer | undefined;
  #filled = 0;

  constructor(reader: Reader<void>) {
    this.#reader = reader;
    this.#next();
  }

  /** Where the next bytes belong: never empty; undefined when the reader wants no more. */
  get space(): Buffer | undefined {
    return this.#filled === 0 ? this.#buffer : this.#buffer?.subarray(this.#filled);
  }

  /** `count` bytes were put at the start of `space`. */
  received(count: number): void {
    this.#filled += count;
    if (this.#filled === this.#buffer?.length) this.#next();
  }

  #next(): void {
    this.#filled = 0;
    do {
      const step = this.#reader.next();
      this.#buffer = step.done === true ? undefined : step.value;
    } while (this.#buffer?.length === 0);
  }
}

/** The next `count` bytes, in a buffer of their own. */
export function* take(count: number): Reader<Buffer> {
  const bytes = Buffer.alloc(count);
  yield bytes;
  return bytes;
}
