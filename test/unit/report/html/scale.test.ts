import fc from 'fast-check';
import { expect, it } from 'vitest';
import { linearScale, logScale, timeScale } from '../../../../src/report/html/scale.js';

const GiB = 1024 ** 3;

it('a scale of bytes ends at a round number of them', () => {
  expect(linearScale(530 * GiB, { base: 1024 }).ticks).toEqual([0, 256, 512, 768].map((each) => each * GiB));
  expect(linearScale(0, { base: 1024 }).ticks).toEqual([0, 1]);
  expect(linearScale(90, { base: 10 }).ticks).toEqual([0, 50, 100]);
});

it('has all values within, and its ticks at equal distances', () => {
  const value = fc.double({ min: 0, max: 1e15, noNaN: true });
  fc.assert(
    fc.property(fc.array(value, { minLength: 1 }), fc.constantFrom(10 as const, 1024 as const), (values, base) => {
      const linear = linearScale(Math.max(...values), { base });
      const log = logScale(values, { factor: base, least: 1 });
      for (const { at, ticks } of [linear, log]) {
        const places = ticks.map(at);
        expect(places[0]).toBeCloseTo(0);
        expect(places.at(-1)).toBeCloseTo(1);
        for (const [index, place] of places.entries()) expect(place).toBeCloseTo(index / (ticks.length - 1));
        for (const each of values) {
          expect(at(each)).toBeGreaterThanOrEqual(-1e-9);
          expect(at(each)).toBeLessThanOrEqual(1 + 1e-9);
        }
        expect(ticks.length).toBeLessThan(60);
      }
    }),
  );
  expect(logScale([], { factor: 10, least: 1 }).ticks).toEqual([1, 10]);
  expect(timeScale(5, 5).at(5)).toBe(0);
});
