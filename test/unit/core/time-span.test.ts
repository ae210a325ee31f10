import { describe, expect, it } from 'vitest';
import { timeSpan } from '../../../src/core/time-span.js';

describe('a span of time', () => {
  const { read } = timeSpan('--outdated-after');
  it('is hours, days or weeks', () => {
    expect([read('12h'), read('30d'), read('2w'), read('1.5d'), read(7)]).toEqual([0.5, 30, 14, 1.5, 7]);
  });
  it.each(['30', '0d', 'd', '-1d', '30 d', '30y', 0, -1, 1e9])('is no %s', (given) => {
    expect(() => read(given)).toThrow(/such as 30d/);
  });
});
