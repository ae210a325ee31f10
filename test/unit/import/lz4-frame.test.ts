import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Xxh32, xxh32 } from '../../../src/core/xxh32.js';
import { ByteFeed } from '../../../src/import/byte-feed.js';
import { lz4Frame } from '../../../src/import/lz4-frame.js';

const text = (bytes: string): Uint8Array => Buffer.from(bytes, 'latin1');

/** Made by the program lz4 1.9.4, `-B4 -BD -BX --content-size`, of 20 times `abcdefgh` and `the end`. */
const BY_LZ4 = Buffer.from(
  '04224d187440bd140000008f61626364656667680800857074686520656e6488ed111300000000317e2100',
  'hex',
);

interface Sequence {
  readonly literals: Uint8Array;
  readonly distance: number;
  readonly match: number;
}

/** A block from its sequences, and by the plainest reading of the format what it decodes to after `history`. */
function block(sequences: readonly Sequence[], tail: Uint8Array, history: readonly number[]): [number[], number[]] {
  const coded: number[] = [];
  const content = [...history];
  const length = (value: number): void => {
    for (let left = value - 15; left >= 0; left -= 255) coded.push(Math.min(left, 255));
  };
  for (const { literals, distance, match } of sequences) {
    content.push(...literals);
    const reach = Math.max(1, Math.min(distance, content.length, 65_535));
    if (content.length === 0) continue;
    coded.push((Math.min(15, literals.length) << 4) | Math.min(15, match));
    if (literals.length >= 15) length(literals.length);
    coded.push(...literals, reach & 0xff, reach >> 8);
    if (match >= 15) length(match);
    for (let at = 0; at < match + 4; at += 1) content.push(content.at(-reach)!);
  }
  coded.push(Math.min(15, tail.length) << 4);
  if (tail.length >= 15) length(tail.length);
  coded.push(...tail);
  content.push(...tail);
  return [coded, content.slice(history.length)];
}

const u32 = (value: number): number[] => [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);

interface Flags {
  readonly linked: boolean;
  readonly sums: boolean;
}

/** A frame of blocks; `stored` ones are not compressed. */
function frame(blocks: readonly Blueprint[], { linked, sums }: Flags): { coded: Uint8Array; content: Uint8Array } {
  const descriptor = [0x40 | (linked ? 0 : 0x20) | (sums ? 0x14 : 0), 0x40];
  const coded = [...u32(0x184d2204), ...descriptor, (xxh32(Uint8Array.from(descriptor)) >>> 8) & 0xff];
  const content: number[] = [];
  for (const each of blocks) {
    const [bytes, decoded] = each.stored
      ? [[...each.tail], [...each.tail]]
      : block(each.sequences, each.tail, linked ? content.slice(-65_536) : []);
    coded.push(...u32(bytes.length + (each.stored ? 0x8000_0000 : 0)), ...bytes);
    if (sums) coded.push(...u32(xxh32(Uint8Array.from(bytes))));
    content.push(...decoded);
  }
  coded.push(...u32(0), ...(sums ? u32(xxh32(Uint8Array.from(content))) : []));
  return { coded: Uint8Array.from(coded), content: Uint8Array.from(content) };
}

interface Blueprint {
  readonly stored: boolean;
  readonly sequences: readonly Sequence[];
  readonly tail: Uint8Array;
}

const blueprint = fc.record({
  stored: fc.boolean(),
  sequences: fc.array(
    fc.record({
      literals: fc.uint8Array({ maxLength: 40 }),
      distance: fc.oneof(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 65_535 })),
      match: fc.oneof(fc.integer({ min: 0, max: 40 }), fc.constantFrom(15, 269, 270, 271, 1000)),
    }),
    { maxLength: 8 },
  ),
  tail: fc.uint8Array({ minLength: 1, maxLength: 300 }),
});

/** Decodes with the input cut at random places. */
function decode(coded: Uint8Array, cuts: readonly number[], limit = 2 ** 30): Uint8Array {
  const parts: Uint8Array[] = [];
  const feed = new ByteFeed(lz4Frame(limit, (bytes) => Uint8Array.from(bytes)));
  const ends = [...cuts.map((cut) => cut % (coded.length + 1)).toSorted((a, b) => a - b), coded.length];
  let from = 0;
  for (const end of ends) {
    // What a chunk was must not matter once it was pushed.
    const chunk = Uint8Array.from(coded.subarray(from, end));
    parts.push(...feed.push(chunk));
    chunk.fill(0xee);
    from = end;
  }
  if (!feed.done) throw new Error('it is not whole');
  return Buffer.concat(parts);
}

describe('LZ4 frames', () => {
  it('decode to what was coded, however they are cut', () => {
    fc.assert(
      fc.property(
        fc.array(blueprint, { maxLength: 4 }),
        fc.record({ linked: fc.boolean(), sums: fc.boolean() }),
        fc.array(fc.nat(), { maxLength: 6 }),
        (blocks, flags, cuts) => {
          const { coded, content } = frame(blocks, flags);
          expect(Buffer.compare(decode(coded, cuts), content)).toBe(0);
        },
      ),
    );
  });

  it('with checksums are refused when any byte was changed', () => {
    fc.assert(
      fc.property(
        fc.array(blueprint, { minLength: 1, maxLength: 2 }),
        fc.nat(),
        fc.integer({ min: 1, max: 255 }),
        (blocks, at, by) => {
          const { coded } = frame(blocks, { linked: true, sums: true });
          coded[at % coded.length]! ^= by;
          expect(() => decode(coded, [])).toThrow();
        },
      ),
    );
  });

  it('give no more than the limit', () => {
    fc.assert(
      fc.property(fc.array(blueprint, { minLength: 1, maxLength: 3 }), (blocks) => {
        const { coded, content } = frame(blocks, { linked: false, sums: false });
        expect(() => decode(coded, [], content.length - 1)).toThrow('more content than it may have');
        expect(decode(coded, [], content.length)).toHaveLength(content.length);
      }),
    );
  });

  it('of any bytes end in content or an error, and not outside', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.boolean(), (bytes, linked) => {
        const { coded } = frame([{ stored: false, sequences: [], tail: Uint8Array.of(1) }], { linked, sums: false });
        const hostile = Buffer.concat([
          coded.subarray(0, 7),
          Uint8Array.from(u32(bytes.length)),
          bytes,
          Buffer.alloc(8),
        ]);
        try {
          expect(decode(hostile, [], 70_000).length).toBeLessThanOrEqual(70_000);
        } catch (error) {
          expect((error as Error).message).toMatch(/an LZ4 frame cannot be decoded|it is not whole/);
        }
      }),
    );
  });

  it('of the reference program are read', () => {
    expect(Buffer.from(decode(BY_LZ4, [])).toString()).toBe(`${'abcdefgh'.repeat(20)}the end`);
  });

  const header = (flags: number, sizes: number): Uint8Array => {
    const descriptor = Uint8Array.of(flags, sizes);
    return Uint8Array.from([...u32(0x184d2204), flags, sizes, (xxh32(descriptor) >>> 8) & 0xff, ...u32(0)]);
  };

  it.each([
    ['another magic number', Uint8Array.from([...u32(0x184d2a50), 0x60, 0x40, 0, 0, 0, 0, 0]), 'magic number'],
    ['another version', header(0xa0, 0x40), 'version'],
    ['a reserved bit', header(0x62, 0x40), 'version'],
    ['a dictionary', header(0x61, 0x40), 'dictionary'],
    ['blocks of an unknown size', header(0x60, 0x30), 'size of blocks'],
    ['a wrong header checksum', header(0x60, 0x40).with(6, 0), 'checksum of its header'],
  ])('refuse %s', (_, bytes, why) => {
    expect(() => decode(bytes, [])).toThrow(why);
  });

  it('refuse a block that is larger than the frame allows before it is read', () => {
    const huge = Uint8Array.from([...header(0x60, 0x40).subarray(0, 7), ...u32(0x7fff_ffff)]);
    expect(() => decode(huge, [])).toThrow('a block of 2147483647 bytes');
  });
});

describe('XXH32', () => {
  it.each([
    ['', 0x02cc5d05],
    ['a', 0x550d7456],
    ['abc', 0x32d153ff],
    ['Nobody inspects the spammish repetition', 0xe2293b2f],
  ])('of %j', (input, sum) => {
    expect(xxh32(text(input))).toBe(sum);
  });

  it('is the same in pieces', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 60 })), (pieces) => {
        const hash = new Xxh32();
        for (const piece of pieces) hash.update(piece);
        expect(hash.digest()).toBe(xxh32(Buffer.concat(pieces)));
      }),
    );
  });
});
