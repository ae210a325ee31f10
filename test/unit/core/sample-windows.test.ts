import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { sampleWindows } from '../../../src/core/sample-windows.js';
import { MiB } from '../../support/builders.js';

describe('windows of a sample', () => {
  it('lie inside the disk, in order, apart from each other, and cover about a twentieth', () => {
    const sizes = fc.integer({ min: 1, max: 2 ** 34 }).map((sectors) => sectors * 512);
    fc.assert(
      fc.property(sizes, fc.infiniteStream(fc.double({ min: 0, max: 0.999999, noNaN: true })), (size, stream) => {
        const windows = sampleWindows(size, () => stream.next().value as number);
        let end = 0;
        for (const { offset, length } of windows) {
          expect(offset % 512).toBe(0);
          expect(length % 512).toBe(0);
          expect(length).toBeGreaterThan(0);
          expect(offset).toBeGreaterThanOrEqual(end - 65_536);
          end = offset + length;
        }
        expect(end).toBeLessThanOrEqual(size);
        const share = windows.reduce((sum, { length }) => sum + length, 0) / size;
        expect(share).toBeGreaterThan(0.03);
        if (size > 1024 * MiB) expect(share).toBeLessThan(0.06);
      }),
    );
  });

  it('are the whole of a small disk', () => {
    expect(sampleWindows(64 * MiB, () => 0.5)).toEqual([{ offset: 0, length: 64 * MiB }]);
  });

  it('can lie anywhere: with time every part is looked at', () => {
    const size = 1024 * MiB;
    const seen = new Set<number>();
    for (let draw = 0; draw <= 400; draw += 1) {
      for (const { offset, length } of sampleWindows(size, () => ((draw % 401) / 400) * 0.9999999)) {
        for (let at = Math.floor(offset / MiB); at < (offset + length) / MiB; at += 1) seen.add(at);
      }
    }
    expect(seen.size).toBe(1024);
  });
});
