import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { median, resultOf, type Sampled } from '../../../scripts/bench/results.js';

const sampled: readonly Sampled[] = [
  { name: 'this build', role: 'this', samples: [9, 3, 3] },
  { name: 'the other build', role: 'other', samples: [6, 6, 1] },
  { name: 'slow', role: 'against', samples: [4, 4, 4] },
  { name: 'quick', role: 'against', samples: [100, 2, 2] },
  { name: 'the bare job', role: 'beside', samples: [1, 1, 1] },
];

describe('a median', () => {
  it('is the value in the middle, or half way between the two', () => {
    expect(median([5])).toBe(5);
    expect(median([9, 1, 5])).toBe(5);
    expect(median([10, 2, 4, 1000])).toBe(7);
    expect(() => median([])).toThrow('no values');
  });

  it('does not hang on the order, and has as many values below it as above', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 1000 }), { minLength: 1 }), (values) => {
        const middle = median(values);
        expect(median(values.toReversed())).toBe(middle);
        const below = values.filter((value) => value < middle).length;
        const above = values.filter((value) => value > middle).length;
        expect(Math.max(below, above)).toBeLessThanOrEqual(values.length / 2);
      }),
    );
  });
});

describe('a result', () => {
  const times = (atMost: number | null) => ({ name: 'full', unit: 'ms', limit: { by: 'times', atMost } }) as const;

  it('is compared with the quickest, not with what is only shown, and with the other build', () => {
    const result = resultOf(times(1.5), 'memory', sampled);
    expect(result).toMatchObject({ reference: 'quick', value: 1.5, timesOther: 0.5, met: true });
    expect(result.figures.map(({ median: middle }) => middle)).toEqual([3, 6, 4, 2, 1]);
  });

  it('misses a goal that is a little lower', () => {
    expect(resultOf(times(1.49), 'memory', sampled).met).toBe(false);
  });

  it('has no goal on a disk, nor where there is none', () => {
    expect(resultOf(times(1), 'disk', sampled)).toMatchObject({ met: null, limit: { atMost: null }, value: 1.5 });
    expect(resultOf(times(null), 'memory', sampled).met).toBeNull();
  });

  it('may be how much more it is, or the figure itself', () => {
    const limited = (by: 'more' | 'itself', atMost: number) =>
      resultOf({ name: 'freeze', unit: 'ms', limit: { by, atMost } }, 'memory', sampled);
    expect(limited('more', 1)).toMatchObject({ value: 1, met: true });
    expect(limited('more', 0.9)).toMatchObject({ value: 1, met: false });
    expect(limited('itself', 3)).toMatchObject({ value: 3, met: true });
    expect(limited('itself', 2)).toMatchObject({ value: 3, met: false });
  });

  it('is none without this build, or without what it is to be compared with', () => {
    expect(() => resultOf(times(1), 'memory', sampled.slice(1))).toThrow('full has not measured this build');
    expect(() => resultOf(times(1), 'memory', sampled.slice(0, 1))).toThrow('compared with');
  });
});
