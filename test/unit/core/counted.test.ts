import { expect, it } from 'vitest';
import { agreeing, counted } from '../../../src/core/counted.js';

it('one of a thing is one, and none or several are many', () => {
  const told = [0, 1, 2].map((number) => `${counted(number, 'cluster')} ${agreeing(number, 'belongs', 'belong')}`);
  expect(told).toEqual(['0 clusters belong', '1 cluster belongs', '2 clusters belong']);
});
