import { expect, it } from 'vitest';
import { describeCatalog, isOlderThan } from '../../../src/core/catalog-copy.js';
import { catalog, entry, point } from '../../support/builders.js';

const points = [0, 1, 2].map((number) => point(number, [entry('a', `FULL-${number}.qcow2`)]));
const upTo = (count: number, more: Parameters<typeof catalog>[1] = {}) => catalog(points.slice(0, count), more);

it('an old catalog is one that its copy has gone on from', () => {
  expect(isOlderThan(upTo(2), upTo(3))).toBe(true);
  expect(isOlderThan(upTo(0), upTo(1))).toBe(true);
  expect(isOlderThan(upTo(3), upTo(3))).toBe(false);
  // A run that was killed before it had written the copy.
  expect(isOlderThan(upTo(3), upTo(2))).toBe(false);
  // The same after a rebase, which leaves the newest point.
  expect(isOlderThan(catalog(points.slice(2)), upTo(3))).toBe(false);
  expect(isOlderThan(upTo(2, { targetId: 'ffffffffffffffff' }), upTo(3))).toBe(false);
  expect(isOlderThan(catalog([point(9, [entry('a', 'FULL-9.qcow2')])]), upTo(3))).toBe(false);
});

it('a copy is told by what is in it', () => {
  expect(describeCatalog(upTo(2))).toBe('of 2 points, the newest of 2026-11-21T12:00:00.000Z');
  expect(describeCatalog(upTo(0))).toBe('without a point');
});
