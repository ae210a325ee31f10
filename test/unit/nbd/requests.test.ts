import { describe, expect, it } from 'vitest';
import { RequestReader, type SeenRequest } from '../../../src/nbd/requests.js';

const FLAGS = Buffer.from([0, 0, 0, 3]);
const NAME = 'd1';

function option(number: number, content: Buffer): Buffer {
  const header = Buffer.alloc(16);
  header.write('IHAVEOPT', 'latin1');
  header.writeUInt32BE(number, 8);
  header.writeUInt32BE(content.length, 12);
  return Buffer.concat([header, content]);
}

function named(name: string): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(name.length);
  return Buffer.concat([length, Buffer.from(name), Buffer.alloc(2)]);
}

function request(command: number, offset: number, length: number, payload: Buffer = Buffer.alloc(0)): Buffer {
  const bytes = Buffer.alloc(28);
  bytes.writeUInt32BE(0x25609513, 0);
  bytes.writeUInt16BE(command, 6);
  bytes.writeBigUInt64BE(BigInt(offset), 16);
  bytes.writeUInt32BE(length, 24);
  return Buffer.concat([bytes, payload]);
}

function extended(
  command: number,
  flags: number,
  offset: number,
  length: number,
  payload: Buffer = Buffer.alloc(0),
): Buffer {
  const bytes = Buffer.alloc(32);
  bytes.writeUInt32BE(0x21e41c71, 0);
  bytes.writeUInt16BE(flags, 4);
  bytes.writeUInt16BE(command, 6);
  bytes.writeBigUInt64BE(BigInt(offset), 16);
  bytes.writeBigUInt64BE(BigInt(length), 24);
  return Buffer.concat([bytes, payload]);
}

/** Bytes of a write that look like a request. */
const WRITTEN = request(0, 1, 1);

const SPOKEN = Buffer.concat([
  FLAGS,
  option(8, Buffer.alloc(0)),
  option(7, named('other')),
  option(7, named(NAME)),
  request(0, 4096, 512),
  request(1, 0, WRITTEN.length, WRITTEN),
  request(7, 0, 0xffff_ffff),
  request(3, 0, 0),
  extended(0, 0, 2 ** 33, 65_536),
  extended(1, 32, 0, WRITTEN.length, WRITTEN),
  extended(7, 32, 8192, 16, Buffer.alloc(16)),
  extended(7, 0, 0, 2 ** 40),
  request(5, 7, 9),
  request(2, 0, 0),
]);

const SEEN: readonly SeenRequest[] = [
  { exportName: NAME, kind: 'read', offset: 4096, length: 512 },
  { exportName: NAME, kind: 'status', offset: 0, length: 0xffff_ffff },
  { exportName: NAME, kind: 'read', offset: 2 ** 33, length: 65_536 },
  { exportName: NAME, kind: 'status', offset: 8192, length: Infinity },
  { exportName: NAME, kind: 'status', offset: 0, length: 2 ** 40 },
  { exportName: NAME, kind: 'read', offset: 7, length: 9 },
];

function read(...portions: readonly Buffer[]): readonly SeenRequest[] {
  const seen: SeenRequest[] = [];
  const reader = new RequestReader((each) => seen.push(each));
  for (const portion of portions) reader.push(portion);
  return seen;
}

describe('RequestReader', () => {
  it('tells what is read, of which export, wherever the bytes are split', () => {
    expect(read(SPOKEN)).toEqual(SEEN);
    for (let at = 1; at < SPOKEN.length; at += 1)
      expect(read(SPOKEN.subarray(0, at), SPOKEN.subarray(at)), `split at ${at}`).toEqual(SEEN);
    expect(read(...Array.from(SPOKEN, (byte) => Buffer.from([byte])))).toEqual(SEEN);
  });

  it('takes the name of the oldest way to choose an export', () => {
    expect(read(FLAGS, option(1, Buffer.from('d2')), request(0, 0, 1))).toMatchObject([{ exportName: 'd2' }]);
  });

  it.each([
    ['what is no NBD', Buffer.from('GET / HTTP/1.1\r\n\r\n')],
    ['an option without an end', Buffer.concat([Buffer.from('IHAVEOPT'), Buffer.from('00000007ffffffff', 'hex')])],
    ['a name longer than its option', option(7, Buffer.from('0000ffff', 'hex'))],
  ])('refuses %s', (_, bytes) => {
    expect(() => read(FLAGS, bytes)).toThrow(/NBD/);
  });
});
