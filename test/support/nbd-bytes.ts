/** What an NBD server says, in bytes; also what it must not say. */
import { SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC } from '../../src/nbd/wire.js';

export function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export function u64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}

export function greeting(flags = 3): Buffer {
  return Buffer.concat([Buffer.from('NBDMAGICIHAVEOPT'), u16(flags)]);
}

export function optionReply(option: number, type: number, data: Buffer = Buffer.alloc(0)): Buffer {
  return Buffer.concat([u64(0x0003e889045565a9n), u32(option), u32(type), u32(data.length), data]);
}

export function contextReply(id: number, name: string): Buffer {
  return optionReply(10, 4, Buffer.concat([u32(id), Buffer.from(name)]));
}

export function exportInfo(size: number | bigint, flags: number): Buffer {
  return optionReply(7, 3, Buffer.concat([u16(0), u64(size), u16(flags)]));
}

export function blockSizeInfo(min: number, preferred: number, max: number): Buffer {
  return optionReply(7, 3, Buffer.concat([u16(3), u32(min), u32(preferred), u32(max)]));
}

export function simpleReply(cookie: bigint, errno = 0): Buffer {
  return Buffer.concat([u32(SIMPLE_REPLY_MAGIC), u32(errno), u64(cookie)]);
}

/** Of any type; `length` may lie about the payload. */
export function chunk(
  cookie: bigint,
  type: number,
  payload: Buffer = Buffer.alloc(0),
  { done = false, length = payload.length } = {},
): Buffer {
  return Buffer.concat([u32(STRUCTURED_REPLY_MAGIC), u16(done ? 1 : 0), u16(type), u64(cookie), u32(length), payload]);
}

export const doneChunk = (cookie: bigint): Buffer => chunk(cookie, 0, undefined, { done: true });

export function dataChunk(cookie: bigint, offset: number, data: Buffer, done = false): Buffer {
  return chunk(cookie, 1, Buffer.concat([u64(offset), data]), { done });
}

export function holeChunk(cookie: bigint, offset: number, length: number, done = false): Buffer {
  return chunk(cookie, 2, Buffer.concat([u64(offset), u32(length)]), { done });
}

export function statusChunk(
  cookie: bigint,
  context: number,
  extents: readonly (readonly [length: number, flags: number])[],
  done = false,
): Buffer {
  const told = extents.map(([length, flags]) => Buffer.concat([u32(length), u32(flags)]));
  return chunk(cookie, 5, Buffer.concat([u32(context), ...told]), { done });
}

export function errorChunk(cookie: bigint, errno: number, words = '', { offset = -1, done = false } = {}): Buffer {
  const text = Buffer.from(words);
  const at = offset < 0 ? [] : [u64(offset)];
  const payload = Buffer.concat([u32(errno), u16(text.length), text, ...at]);
  return chunk(cookie, offset < 0 ? 0x8001 : 0x8002, payload, { done });
}
