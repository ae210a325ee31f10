import fc from 'fast-check';
import { expect, it } from 'vitest';
import { TouchedRanges } from '../../../src/core/touched-ranges.js';

const KiB = 1024;
const SIZE = 1024 * KiB + 1;

it('tells all that was touched, to the next 64 KiB, once', () => {
  const touched = new TouchedRanges(SIZE);
  touched.add({ start: 70 * KiB, end: 71 * KiB });
  touched.add({ start: 0, end: 1 });
  touched.add({ start: 1024 * KiB, end: Infinity });
  expect(touched.take()).toEqual([
    { start: 0, end: 64 * KiB },
    { start: 64 * KiB, end: 128 * KiB },
    { start: 1024 * KiB, end: 1088 * KiB },
  ]);
  touched.add({ start: 0, end: 200 * KiB });
  expect(touched.take()).toEqual([{ start: 128 * KiB, end: 256 * KiB }]);
  expect(touched.take()).toEqual([]);
});

it('is touched by no empty range, and by none beyond the end of the disk', () => {
  const touched = new TouchedRanges(SIZE);
  touched.add({ start: 1, end: 1 });
  touched.add({ start: SIZE, end: SIZE + 1 });
  expect(touched.take()).toEqual([]);
});

it('tells each byte that was touched in one answer and no other', () => {
  const range = fc.tuple(fc.nat(SIZE), fc.nat(200 * KiB)).map(([start, length]) => ({ start, end: start + length }));
  fc.assert(
    fc.property(fc.array(fc.array(range)), (rounds) => {
      const touched = new TouchedRanges(SIZE);
      const told = new Uint8Array(17);
      const wanted = new Uint8Array(17);
      for (const ranges of rounds) {
        for (const each of ranges) {
          touched.add(each);
          const end = Math.min(each.end, SIZE);
          for (let at = each.start; at < end; at += KiB) wanted[Math.floor(at / (64 * KiB))] = 1;
          if (end > each.start) wanted[Math.floor((end - 1) / (64 * KiB))] = 1;
        }
        for (const { start, end } of touched.take())
          for (let unit = start / (64 * KiB); unit < end / (64 * KiB); unit += 1) told[unit] = (told[unit] ?? 0) + 1;
      }
      expect(told).toEqual(wanted);
    }),
  );
});
