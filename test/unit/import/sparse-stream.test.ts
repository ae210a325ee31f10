import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { xxh32 } from '../../../src/core/xxh32.js';
import { ByteFeed } from '../../../src/import/byte-feed.js';
import { sparseStream, type StreamEvent } from '../../../src/import/sparse-stream.js';
import { encodeStream, record, type StreamToEncode } from '../../support/stream-encoder.js';

/** What a stream says, pieces of data put together; throws for one that does not end with its bytes. */
function decode(bytes: Uint8Array, cuts: readonly number[] = []): StreamEvent[] {
  const feed = new ByteFeed(sparseStream());
  const events: StreamEvent[] = [];
  const ends = [...cuts.map((cut) => cut % (bytes.length + 1)).toSorted((a, b) => a - b), bytes.length];
  let from = 0;
  for (const end of ends) {
    const chunk = Uint8Array.from(bytes.subarray(from, end));
    for (const event of feed.push(chunk)) add(events, event);
    chunk.fill(0xee);
    from = end;
  }
  if (!feed.done || feed.left > 0) throw new Error('it does not end with its bytes');
  return events;
}

function add(events: StreamEvent[], event: StreamEvent): void {
  const last = events.at(-1);
  if (event.kind !== 'data') events.push(event);
  else if (last?.kind === 'data' && last.offset + last.bytes.length === event.offset) {
    events.splice(-1, 1, { ...last, bytes: Buffer.concat([last.bytes, event.bytes]) });
  } else events.push({ ...event, bytes: Buffer.from(event.bytes) });
}

/** A frame of stored blocks: what LZ4 makes of bytes it cannot make smaller. */
function storedFrame(bytes: Uint8Array): Buffer {
  const u32 = (value: number): Buffer => Buffer.from(Uint32Array.of(value).buffer);
  const descriptor = Buffer.from([0x60, 0x40]);
  const sum = Buffer.from([(xxh32(descriptor) >>> 8) & 0xff]);
  return Buffer.concat([u32(0x184d2204), descriptor, sum, u32(0x8000_0000 + bytes.length), bytes, u32(0)]);
}

const SIZE = 100_000;
const DISK = { disk: 'vda', virtualSize: SIZE, checkpoint: 'virtnbdbackup.0' };

const stream: fc.Arbitrary<StreamToEncode> = fc
  .record({
    gaps: fc.array(fc.tuple(fc.nat(50), fc.uint8Array({ minLength: 1, maxLength: 200 }), fc.boolean()), {
      maxLength: 6,
    }),
    compressed: fc.boolean(),
  })
  .map(({ gaps, compressed }) => {
    let at = 0;
    const records = gaps.map(([gap, bytes, zero]) => {
      // A gap between all of them, so that no two pieces of data touch.
      const offset = at + gap + 1;
      at = offset + bytes.length;
      return zero ? { kind: 'zero' as const, offset, length: bytes.length } : { kind: 'data' as const, offset, bytes };
    });
    return { ...DISK, records, ...(compressed ? { frame: storedFrame, maxRequest: 100 } : {}) };
  });

describe('a stream', () => {
  it('says what was put in, however it is cut', () => {
    fc.assert(
      fc.property(stream, fc.array(fc.nat(), { maxLength: 8 }), (made, cuts) => {
        const [meta, ...rest] = decode(encodeStream(made), cuts);
        expect(meta).toMatchObject({ kind: 'meta', meta: { disk: 'vda', virtualSize: SIZE, parent: null } });
        const records = made.records.map((each) =>
          each.kind === 'data' ? { ...each, bytes: Buffer.from(each.bytes) } : each,
        );
        expect(rest).toEqual([
          ...records,
          { kind: 'end', zeroRecords: records.filter(({ kind }) => kind === 'zero').length },
        ]);
      }),
    );
  });

  it('is the same one byte at a time', () => {
    const bytes = encodeStream({
      ...DISK,
      records: [{ kind: 'data', offset: 512, bytes: Buffer.alloc(700, 7) }],
      frame: storedFrame,
    });
    expect(decode(bytes, [...bytes.keys()])).toEqual(decode(bytes));
  });

  it('that was cut off anywhere is not whole', () => {
    fc.assert(
      fc.property(stream, fc.nat(), (made, at) => {
        const bytes = encodeStream(made);
        expect(() => decode(bytes.subarray(0, at % bytes.length))).toThrow();
      }),
    );
  });

  it('of any bytes ends in an error of ours', () => {
    fc.assert(
      fc.property(stream, fc.nat(), fc.uint8Array({ minLength: 1, maxLength: 30 }), (made, at, noise) => {
        const bytes = encodeStream(made);
        bytes.set(noise.subarray(0, bytes.length - (at % bytes.length)), at % bytes.length);
        try {
          for (const event of decode(bytes)) if (event.kind === 'data') expect(event.offset).toBeLessThan(SIZE);
        } catch (error) {
          expect(['damaged', 'unsafe', undefined]).toContain((error as { code?: string }).code);
          expect((error as Error).name).not.toMatch(/TypeError|RangeError/);
        }
      }),
    );
  });
});

describe('a hostile stream', () => {
  const meta = (more: Record<string, unknown> = {}): Buffer => {
    const whole = encodeStream({ ...DISK, records: [], meta: more });
    return whole.subarray(0, whole.length - 40);
  };
  const stop = record('stop', 0, 0);
  const data = (offset: number, bytes: Uint8Array): Buffer =>
    Buffer.concat([record('data', offset, bytes.length), bytes, Buffer.from('\r\n')]);

  it.each<[string, Uint8Array[], string]>([
    ['begins with something else', [record('data', 0, 1), Buffer.from('x\r\n')], 'does not begin with its metadata'],
    ['announces metadata without bound', [record('meta', 0, 2 ** 40)], 'its metadata would have 1099511627776 bytes'],
    ['has metadata that is no JSON', [record('meta', 0, 2), Buffer.from('{]\r\n')], 'its metadata is no JSON'],
    ['leads beyond its disk', [meta({ dataSize: 2 }), record('data', SIZE - 1, 2)], 'leads beyond the disk'],
    ['leads far beyond its disk', [meta(), record('zero', 2 ** 60, 1)], 'leads beyond the disk'],
    [
      'has a record of nothing',
      [meta(), record('data', 0, 0), Buffer.from('\r\n'), stop],
      'a record "data" of nothing',
    ],
    ['goes back', [meta({ dataSize: 20 }), data(100, Buffer.alloc(10)), data(105, Buffer.alloc(10)), stop], 'overlap'],
    ['has a negative number', [meta(), Buffer.from('zero -000000000000001 0000000000000001\r\n')], 'no record'],
    ['has metadata twice', [meta(), record('meta', 0, 2)], 'a record "meta" within the data'],
    [
      'has other data than it says',
      [meta({ dataSize: 11 }), data(0, Buffer.alloc(10)), stop],
      'it holds 10 bytes of data, not 11',
    ],
    [
      'has data that is longer than its record',
      [meta({ dataSize: 3 }), record('data', 0, 3), Buffer.from('abcd\r\n')],
      'does not end',
    ],
    ['is of a later version', [meta({ streamVersion: 3 }), stop], 'version 3, which is not known here'],
    ['is compressed in another way', [meta({ compressed: 3, compressionMethod: 'zstd' }), stop], 'compression by zstd'],
    ['is of a disk that leads elsewhere', [meta({ diskName: '../../etc' }), stop], 'diskName: is not a plain name'],
    ['has a checkpoint that leads elsewhere', [meta({ checkpointName: '/etc/passwd' }), stop], 'checkpointName'],
    ['has a negative size', [meta({ virtualSize: -1 }), stop], 'virtualSize'],
    ['has a size beyond numbers', [meta({ virtualSize: 2 ** 63 }), stop], 'virtualSize'],
    ['has no date', [meta({ date: 'yesterday' }), stop], 'date'],
  ])('that %s is refused', (_, parts, why) => {
    expect(() => decode(Buffer.concat(parts))).toThrow(why);
  });

  it.each<[string, (bytes: string) => string, string]>([
    ['lists other sizes', (bytes) => bytes.replace(/\[\d+\]\r\n/, '[199]\r\n'), 'is not that of its data'],
    ['has a list that is none', (bytes) => bytes.replace(/\[(\d+)\]\r\n/, '{$1}\r\n'), 'is not that of its data'],
    ['ends its list elsewhere', (bytes) => bytes.replace(/(comp \d{15}.\s\d{15})./, '$1f'), 'has no end'],
  ])('that is compressed and %s is refused', (_, change, why) => {
    const bytes = encodeStream({
      ...DISK,
      records: [{ kind: 'data', offset: 0, bytes: Buffer.alloc(85, 7) }],
      frame: storedFrame,
    });
    expect(decode(bytes)).toHaveLength(3);
    expect(() => decode(Buffer.from(change(bytes.toString('latin1')), 'latin1'))).toThrow(why);
  });
});
