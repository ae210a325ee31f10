import { describe, expect, it } from 'vitest';
import { seconds } from '../../../src/core/option-rules.js';
import { duration, timeSpan } from '../../../src/core/time-span.js';

describe('a span of time', () => {
  const { read } = timeSpan('--outdated-after');
  it('is hours, days or weeks', () => {
    expect([read('12h'), read('30d'), read('2w'), read('1.5d'), read(7)]).toEqual([0.5, 30, 14, 1.5, 7]);
  });
  it.each(['30', '0d', 'd', '-1d', '30 d', '30y', 0, -1, 1e9])('is no %s', (given) => {
    expect(() => read(given)).toThrow(/such as 30d/);
  });
});

describe('a span that is waited for', () => {
  it('is seconds without a unit, and takes the same units wherever it is given', () => {
    const given = [90, '90', '1.5', '90s', '2m', '1h'];
    expect(given.map((each) => seconds('--timeout', 300).read(each))).toEqual([90, 90, 1.5, 90, 120, 3_600]);
    expect(given.map((each) => duration('timeout', 300_000).read(each))).toEqual(
      [90, 90, 1.5, 90, 120, 3_600].map((each) => each * 1_000),
    );
    expect(duration('retry-after', 60_000).read('0s')).toBe(0);
  });
  it.each(['', 's', '-1s', '25h', '2d', '1 day', 'NaN'])('is no %j', (given) => {
    expect(() => seconds('--timeout', 300).read(given)).toThrow(/such as 90s, 10m or 2h/);
    expect(() => duration('timeout', 300_000).read(given)).toThrow(/such as 90s, 10m or 2h/);
  });
});
