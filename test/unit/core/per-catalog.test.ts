import { expect, it } from 'vitest';
import { perCatalog } from '../../../src/core/per-catalog.js';
import { catalog, entry, point } from '../../support/builders.js';

it('looks once at each catalog, also where nothing is found', () => {
  const looked: unknown[] = [];
  const first = perCatalog(({ points }) => {
    looked.push(points);
    return points[0]?.id;
  });
  const [empty, one] = [catalog([]), catalog([point(0, [entry('a', 'FULL-1.qcow2')])])];
  expect([first(one), first(empty), first(one), first(empty)]).toEqual([
    '000000000000',
    undefined,
    '000000000000',
    undefined,
  ]);
  expect(looked).toEqual([one.points, empty.points]);
});
