import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseQcow2Header, QCOW2_HEADER_BYTES, type Qcow2Header } from '../../../src/core/qcow2-header.js';
import { QmpBackupError } from '../../../src/errors.js';

interface Shape {
  readonly version?: number;
  readonly backing?: string;
  readonly extensions?: readonly { readonly type: number; readonly data: string }[];
  readonly features?: bigint;
  readonly crypt?: number;
  readonly clusterBits?: number;
  readonly size?: bigint;
  readonly compression?: number;
}

/** Lays a header out as `qemu-img create` does: fixed part, extensions, backing name. */
function headerOf(shape: Shape): Uint8Array {
  const version = shape.version ?? 3;
  const bytes = Buffer.alloc(4096);
  const length = version === 2 ? 72 : 112;
  bytes.writeUInt32BE(0x514649fb, 0);
  bytes.writeUInt32BE(version, 4);
  bytes.writeUInt32BE(shape.clusterBits ?? 16, 20);
  bytes.writeBigUInt64BE(shape.size ?? 1_048_576n, 24);
  bytes.writeUInt32BE(shape.crypt ?? 0, 32);
  if (version === 3) {
    bytes.writeBigUInt64BE(shape.features ?? 0n, 72);
    bytes.writeUInt32BE(length, 100);
    bytes.writeUInt8(shape.compression ?? 0, 104);
  }
  let offset = length;
  for (const { type, data } of shape.extensions ?? []) {
    bytes.writeUInt32BE(type, offset);
    bytes.writeUInt32BE(Buffer.byteLength(data), offset + 4);
    bytes.write(data, offset + 8);
    offset += 8 + Math.ceil(Buffer.byteLength(data) / 8) * 8;
  }
  offset += 8;
  if (shape.backing !== undefined) {
    bytes.writeBigUInt64BE(BigInt(offset), 8);
    bytes.writeUInt32BE(Buffer.byteLength(shape.backing), 16);
    bytes.write(shape.backing, offset);
  }
  return bytes;
}

const backingFormat = (data: string) => ({ type: 0xe2792aca, data });
const dataFile = (data: string) => ({ type: 0x44415441, data });

describe('parseQcow2Header', () => {
  it('reads a plain version 3 image', () => {
    expect(parseQcow2Header(headerOf({}))).toEqual({
      version: 3,
      virtualSize: 1_048_576,
      clusterSize: 65_536,
      backingFile: null,
      backingFormat: null,
      encrypted: false,
      dataFile: false,
      externalDataFileName: null,
      incompatibleFeatures: 0n,
      autoclearFeatures: 0n,
      dirty: false,
      corrupt: false,
      compressionType: 'zlib',
      snapshots: 0,
    } satisfies Qcow2Header);
  });

  it('reads backing file, its format and an unknown extension between', () => {
    const header = parseQcow2Header(
      headerOf({
        backing: 'FULL-1.qcow2',
        extensions: [{ type: 0x6803f857, data: 'feature' }, backingFormat('qcow2')],
      }),
    );
    expect(header.backingFile).toBe('FULL-1.qcow2');
    expect(header.backingFormat).toBe('qcow2');
  });

  it('reads version 2 with a backing file', () => {
    const header = parseQcow2Header(headerOf({ version: 2, backing: 'base', extensions: [backingFormat('raw')] }));
    expect(header).toMatchObject({ version: 2, backingFile: 'base', backingFormat: 'raw', incompatibleFeatures: 0n });
  });

  it('tells features: dirty, corrupt, data file, zstd, encryption', () => {
    expect(parseQcow2Header(headerOf({ features: 3n }))).toMatchObject({ dirty: true, corrupt: true, dataFile: false });
    expect(parseQcow2Header(headerOf({ features: 4n, extensions: [dataFile('/etc/passwd')] }))).toMatchObject({
      dataFile: true,
      externalDataFileName: '/etc/passwd',
    });
    expect(parseQcow2Header(headerOf({ features: 8n, compression: 1 })).compressionType).toBe('zstd');
    expect(parseQcow2Header(headerOf({ features: 8n, compression: 7 })).compressionType).toBe('unknown');
    expect(parseQcow2Header(headerOf({ crypt: 2 })).encrypted).toBe(true);
  });

  it('names a data file even when the feature bit is missing', () => {
    const header = parseQcow2Header(headerOf({ extensions: [dataFile('secret')] }));
    expect(header).toMatchObject({ dataFile: false, externalDataFileName: 'secret' });
  });

  it('takes the last of two backing formats, as QEMU does', () => {
    const header = parseQcow2Header(
      headerOf({ backing: 'a', extensions: [backingFormat('qcow2'), backingFormat('raw')] }),
    );
    expect(header.backingFormat).toBe('raw');
  });

  it('keeps a name with NUL or a byte order mark apart from the honest one', () => {
    expect(parseQcow2Header(headerOf({ backing: 'FULL-1.qcow2\0' })).backingFile).not.toBe('FULL-1.qcow2');
    expect(parseQcow2Header(headerOf({ backing: '\ufeffFULL-1.qcow2' })).backingFile).not.toBe('FULL-1.qcow2');
  });

  it('reads bytes that are a window into a larger buffer', () => {
    const header = headerOf({ backing: 'FULL-1.qcow2', extensions: [backingFormat('qcow2')] });
    const larger = new Uint8Array(header.byteLength + 100).fill(0xff);
    larger.set(header, 50);
    const window = larger.subarray(50, 50 + header.byteLength);
    expect(parseQcow2Header(window)).toEqual(parseQcow2Header(header));
  });

  it.each<[string, Uint8Array, RegExp]>([
    ['nothing', new Uint8Array(0), /not a qcow2/],
    ['raw data', new Uint8Array(4096), /not a qcow2/],
    ['another version', headerOf({ version: 4 }), /version 4/],
    ['a cut header', headerOf({}).subarray(0, 90), /cut short/],
    ['tiny clusters', headerOf({ clusterBits: 3 }), /2\^3-byte/],
    ['an impossible size', headerOf({ size: 2n ** 60n }), /impossible disk size/],
    ['no end to its extensions', headerOf({ extensions: [backingFormat('qcow2')] }).subarray(0, 128), /cut short/],
  ])('refuses %s', (_what, bytes, message) => {
    expect(() => parseQcow2Header(bytes)).toThrow(message);
  });

  it('refuses an extension that is larger than the header', () => {
    const bytes = Buffer.from(headerOf({ backing: 'a', extensions: [backingFormat('qcow2')] }));
    bytes.writeUInt32BE(0xffffffff, 116);
    expect(() => parseQcow2Header(bytes)).toThrow(/larger than the header/);
  });

  it('refuses a backing name outside its limits', () => {
    const bytes = Buffer.from(headerOf({ backing: 'a' }));
    bytes.writeUInt32BE(1024, 16);
    expect(() => parseQcow2Header(bytes)).toThrow(/outside the header/);
    bytes.writeBigUInt64BE(65_530n, 8);
    bytes.writeUInt32BE(6, 16);
    expect(() => parseQcow2Header(bytes)).toThrow(/cut short/);
  });

  it('answers or says damaged for any bytes, and never reads beyond them', () => {
    const base = headerOf({ backing: 'FULL-1.qcow2', extensions: [backingFormat('qcow2'), dataFile('x')] });
    const mutation = fc.record({ offset: fc.nat(200), value: fc.nat(255) });
    fc.assert(
      fc.property(fc.array(mutation, { maxLength: 12 }), fc.nat(base.byteLength), (mutations, length) => {
        const bytes = Uint8Array.from(base);
        for (const { offset, value } of mutations) bytes[offset] = value;
        answersOrDamaged(bytes.subarray(0, length));
        answersOrDamaged(bytes);
      }),
      { numRuns: 3000 },
    );
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (tail) => {
        const bytes = new Uint8Array(8 + tail.length);
        bytes.set([0x51, 0x46, 0x49, 0xfb, 0, 0, 0, tail.length % 2 === 0 ? 2 : 3]);
        bytes.set(tail, 8);
        answersOrDamaged(bytes);
      }),
      { numRuns: 3000 },
    );
  });

  it('ends on a header full of empty extensions', () => {
    const bytes = new Uint8Array(QCOW2_HEADER_BYTES).fill(0);
    bytes.set(headerOf({ clusterBits: 21 }));
    const view = new DataView(bytes.buffer);
    for (let offset = 112; offset + 8 <= bytes.byteLength; offset += 8) view.setUint32(offset, 1);
    expect(() => parseQcow2Header(bytes)).toThrow(/too far out/);
  });
});

function answersOrDamaged(bytes: Uint8Array): void {
  try {
    const header = parseQcow2Header(bytes);
    expect(Number.isSafeInteger(header.virtualSize)).toBe(true);
  } catch (error) {
    expect(error).toBeInstanceOf(QmpBackupError);
    expect((error as QmpBackupError).code).toBe('damaged');
  }
}
