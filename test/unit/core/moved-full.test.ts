import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Span } from '../../../src/core/extents.js';
import { misplacedIn, piecesWritten, SpanIndex, type WrittenImage } from '../../../src/core/moved-full.js';

describe('piecesWritten', () => {
  it('are those that have a byte which was written, or that one of the files has not', () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ offset: fc.nat(60), length: fc.nat(9) })),
        fc.integer({ min: 1, max: 60 }),
        fc.integer({ min: 1, max: 60 }),
        (written, before, after) => {
          const bytes = 7;
          const found = piecesWritten(written, { bytes, before, after });
          const isWritten = (at: number): boolean =>
            at >= before || written.some(({ offset, length }) => at >= offset && at < offset + length);
          for (let piece = 0; piece * bytes < after; piece += 1) {
            const all = Array.from({ length: Math.min(bytes, after - piece * bytes) }, (_, at) => piece * bytes + at);
            const isShorter = Math.min(bytes, before - piece * bytes) !== all.length;
            if (all.some(isWritten) || isShorter) expect(found).toContain(piece);
          }
          for (const piece of found) expect(piece * bytes).toBeLessThan(after);
        },
      ),
    );
  });

  it('are no others', () => {
    expect(piecesWritten([{ offset: 8, length: 4 }], { bytes: 4, before: 40, after: 40 })).toEqual(new Set([2]));
    expect(piecesWritten([], { bytes: 4, before: 40, after: 40 })).toEqual(new Set());
    expect(piecesWritten([], { bytes: 4, before: 38, after: 41 })).toEqual(new Set([9, 10]));
    expect(piecesWritten([], { bytes: 4, before: 41, after: 38 })).toEqual(new Set([9]));
  });
});

describe('SpanIndex', () => {
  it('tells whether any byte is in a span', () => {
    fc.assert(
      fc.property(
        fc.array(fc.nat(5), { maxLength: 8 }),
        fc.nat(40),
        fc.integer({ min: 1, max: 10 }),
        (steps, start, length) => {
          const all: Span[] = [];
          let at = 0;
          for (const step of steps) {
            all.push({ offset: at + step, length: step + 1 });
            at += 2 * step + 2;
          }
          const end = start + length;
          const expected = all.some((span) => span.offset < end && span.offset + span.length > start);
          expect(new SpanIndex(all).overlaps(start, end)).toBe(expected);
        },
      ),
    );
  });
});

describe('misplacedIn', () => {
  const CLUSTER = 65_536;
  const data = (cluster: number): bigint => (1n << 63n) | BigInt(cluster * CLUSTER);
  const table = (...entries: readonly bigint[]): Buffer => {
    const buffer = Buffer.alloc(entries.length * 8);
    entries.forEach((entry, at) => buffer.writeBigUInt64BE(entry, at * 8));
    return buffer;
  };
  const ofClusters = (...clusters: readonly number[]): SpanIndex =>
    new SpanIndex(clusters.map((cluster) => ({ offset: cluster * CLUSTER, length: CLUSTER })));
  const image = (given: Partial<WrittenImage>): WrittenImage => ({
    ...{ clusterBits: 16, merged: ofClusters(), zeros: ofClusters(), written: ofClusters() },
    ...given,
  });
  const run = (
    before: Buffer,
    after: Buffer,
    given: Partial<WrittenImage>,
    first = 0,
  ): [number | undefined, Span[]] => {
    const seen: Span[] = [];
    return [misplacedIn(before, after, first, image(given), (span) => seen.push(span)), seen];
  };

  it('finds nothing where only what was merged has moved', () => {
    const [before, after] = [table(data(5), data(6), 0n, 1n), table(data(5), data(9), data(10), 1n)];
    expect(run(before, after, { merged: ofClusters(1, 2), written: ofClusters(9, 10) })).toEqual([undefined, []]);
  });

  it.each([
    ['is somewhere else', table(data(7), 0n)],
    ['is gone', table(0n, 0n)],
    ['became zero', table(1n, 0n)],
  ])('finds a cluster that %s', (_, after) => {
    expect(run(table(data(5), 0n), after, {})).toEqual([0, []]);
  });

  it('finds a cluster that has come, by its place on the disk', () => {
    expect(run(table(0n, 0n), table(0n, data(3)), {}, 8)).toEqual([9 * CLUSTER, []]);
  });

  it('finds a cluster into which something was written', () => {
    const same = table(data(5), data(6));
    expect(run(same, same, { written: ofClusters(6) })).toEqual([CLUSTER, []]);
    expect(run(same, same, { written: ofClusters(4, 7) })).toEqual([undefined, []]);
  });

  it('tells of data where zeros were merged', () => {
    const after = table(data(5), 1n, 0n);
    const zeroed = run(table(0n, 0n, data(3)), after, { merged: ofClusters(0, 1, 2), zeros: ofClusters(0, 1, 2) });
    expect(zeroed).toEqual([undefined, [{ offset: 0, length: CLUSTER }]]);
  });
});
