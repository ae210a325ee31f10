import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  joinSpans,
  type Range,
  rangesOfDifference,
  rangesOfFull,
  rangesOfIncrement,
  rangesWithout,
  type Span,
  totalLength,
} from '../../../src/core/extents.js';

/** One disk told byte by byte, and its spans as a server may split them. */
interface Disk {
  readonly size: number;
  readonly clusterSize: number;
  readonly dirty: readonly boolean[];
  readonly zero: readonly boolean[];
  readonly cuts: readonly boolean[];
}

const runs = (size: number): fc.Arbitrary<boolean[]> =>
  fc
    .array(fc.tuple(fc.boolean(), fc.integer({ min: 1, max: 13 })), { maxLength: 40 })
    .map((list) => list.flatMap(([value, length]) => Array<boolean>(length).fill(value)))
    .map((bytes) => Array.from({ length: size }, (_, at) => bytes[at] ?? false));

const disks: fc.Arbitrary<Disk> = fc
  .tuple(fc.integer({ min: 0, max: 120 }), fc.constantFrom(1, 4, 8, 16, 256))
  .chain(([size, clusterSize]) =>
    fc.record({
      size: fc.constant(size),
      clusterSize: fc.constant(clusterSize),
      dirty: runs(size),
      zero: runs(size),
      cuts: fc.array(fc.boolean(), { minLength: size, maxLength: size }),
    }),
  );

function spansOf(bytes: readonly boolean[], cuts: readonly boolean[]): Span[] {
  const spans: { offset: number; length: number }[] = [];
  bytes.forEach((set, at) => {
    const last = spans.at(-1);
    if (!set) return;
    if (last !== undefined && last.offset + last.length === at && !cuts[at]) last.length += 1;
    else spans.push({ offset: at, length: 1 });
  });
  return spans;
}

/** What each byte of the new image must be, by looking at its cluster. */
function modelOf({ size, clusterSize, dirty, zero }: Disk): (Range['kind'] | 'clean')[] {
  return Array.from({ length: size }, (_, at) => {
    const start = at - (at % clusterSize);
    const [isDirty, isZero] = [dirty.slice(start, start + clusterSize), zero.slice(start, start + clusterSize)];
    if (!isDirty.includes(true)) return 'clean';
    return isZero.includes(false) ? 'data' : 'zero';
  });
}

function painted(ranges: readonly Range[], size: number): (Range['kind'] | 'clean')[] {
  const bytes = Array<Range['kind'] | 'clean'>(size).fill('clean');
  let before: Range | undefined;
  for (const range of ranges) {
    expect(range.length).toBeGreaterThan(0);
    expect(range.offset + range.length).toBeLessThanOrEqual(size);
    if (before !== undefined) {
      const end = before.offset + before.length;
      expect(range.offset).toBeGreaterThanOrEqual(end);
      // Neighbours of one kind are one range.
      if (range.offset === end) expect(range.kind).not.toBe(before.kind);
    }
    bytes.fill(range.kind, range.offset, range.offset + range.length);
    before = range;
  }
  return bytes;
}

describe('the ranges of an increment', () => {
  it('are the dirty clusters, zero where all of a cluster is and data otherwise, whatever the extents', () => {
    fc.assert(
      fc.property(disks, (disk) => {
        const dirty = spansOf(disk.dirty, disk.cuts);
        const zero = spansOf(disk.zero, disk.cuts);
        const ranges = rangesOfIncrement({ dirty, zero }, disk);
        expect(painted(ranges, disk.size)).toEqual(modelOf(disk));
      }),
      { numRuns: 2000 },
    );
  });

  it('end with the disk, where the extents of a server reach beyond it', () => {
    const shape = { size: 100, clusterSize: 64 };
    expect(
      rangesOfIncrement({ dirty: [{ offset: 96, length: 416 }], zero: [{ offset: 64, length: 448 }] }, shape),
    ).toEqual([{ offset: 64, length: 36, kind: 'zero' }]);
    expect(
      rangesOfIncrement({ dirty: [{ offset: 99, length: 1 }], zero: [{ offset: 64, length: 35 }] }, shape),
    ).toEqual([{ offset: 64, length: 36, kind: 'data' }]);
    expect(
      rangesOfIncrement({ dirty: [{ offset: 128, length: 5 }], zero: [{ offset: 200, length: 9 }] }, shape),
    ).toEqual([]);
  });

  it('hold for disks of petabytes', () => {
    const far = 2 ** 50;
    const shape = { size: far + 70_000, clusterSize: 65_536 };
    const extents = { dirty: [{ offset: far + 65_536, length: 1 }], zero: [{ offset: 0, length: far + 65_537 }] };
    expect(rangesOfIncrement(extents, shape)).toEqual([{ offset: far + 65_536, length: 4464, kind: 'data' }]);
  });
});

describe('the ranges of a difference', () => {
  it('are all but clusters that are zero in disk and parent, at any place of a disk', () => {
    fc.assert(
      fc.property(disks, fc.nat(50), ({ size, clusterSize, dirty, zero, cuts }, clusters) => {
        const offset = clusters * clusterSize;
        const moved = (bits: readonly boolean[]) =>
          spansOf(bits, cuts).map((span) => ({ ...span, offset: span.offset + offset }));
        const spans = { disk: moved(zero), parent: moved(dirty) };
        const ranges = rangesOfDifference(spans, { offset, length: size }, clusterSize);
        const found = painted(
          ranges.map((range) => ({ ...range, offset: range.offset - offset })),
          size,
        );
        for (let start = 0; start < size; start += clusterSize) {
          const end = Math.min(size, start + clusterSize);
          const isZero = zero.slice(start, end).every(Boolean);
          const both = isZero && dirty.slice(start, end).every(Boolean);
          const kind = both ? 'clean' : isZero ? 'zero' : 'data';
          expect(found.slice(start, end)).toEqual(Array.from({ length: end - start }, () => kind));
        }
      }),
    );
  });
});

describe('the ranges of a whole disk', () => {
  it('are all clusters that are not zero', () => {
    fc.assert(
      fc.property(disks, (disk) => {
        const all = { ...disk, dirty: disk.dirty.map(() => true) };
        const ranges = rangesOfFull(spansOf(disk.zero, disk.cuts), disk);
        const expected = modelOf(all).map((kind) => (kind === 'zero' ? 'clean' : kind));
        expect(painted(ranges, disk.size)).toEqual(expected);
        expect(totalLength(ranges)).toBe(expected.filter((kind) => kind === 'data').length);
      }),
    );
  });
});

describe('rangesWithout', () => {
  it('are the bytes that are in no span, of the kind that they were', () => {
    fc.assert(
      fc.property(disks, runs(120), ({ size, clusterSize, dirty, zero, cuts }, taken) => {
        const shape = { size, clusterSize };
        const ranges = rangesOfIncrement({ dirty: spansOf(dirty, cuts), zero: spansOf(zero, cuts) }, shape);
        const before = painted(ranges, size);
        const left = painted(rangesWithout(ranges, spansOf(taken, [])), size);
        expect(left).toEqual(before.map((kind, at) => (taken[at] ? 'clean' : kind)));
      }),
    );
  });
});

describe('joinSpans', () => {
  it('has every byte once, in order', () => {
    const span = fc.record({ offset: fc.nat(50), length: fc.integer({ min: 1, max: 9 }) });
    fc.assert(
      fc.property(fc.array(span), (all) => {
        const has = Array.from({ length: 60 }, (_, at) =>
          all.some(({ offset, length }) => at >= offset && at < offset + length),
        );
        expect(joinSpans(all)).toEqual(spansOf(has, []));
      }),
    );
  });
});
