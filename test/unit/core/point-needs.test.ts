import { expect, it } from 'vitest';
import { needsOf } from '../../../src/core/point-needs.js';
import { entry, point } from '../../support/builders.js';

// Two chains with a copy between them; the DIFF builds on its FULL, and one disk is left out of a point.
const files = (number: number, parents: readonly (string | null)[]) =>
  parents.map((parent, index) => entry(`d${index}`, `INC-${number}.qcow2`, { parent }));
const POINTS = [
  point(0, files(0, [null, null]), { chain: 'a' }),
  point(1, files(1, ['INC-0.qcow2', 'INC-0.qcow2']), { chain: 'a' }),
  point(0, files(9, [null]), { chain: null }),
  point(2, files(2, ['INC-1.qcow2']), { chain: 'a' }),
  point(3, files(3, ['INC-0.qcow2', 'INC-1.qcow2']), { chain: 'a' }),
  point(0, files(4, [null]), { chain: 'b' }),
  point(1, files(5, ['INC-4.qcow2']), { chain: 'b' }),
];

it('tells which points each needs, in ranges of its chain', () => {
  expect(needsOf(POINTS, () => null).map(({ ranges }) => ranges)).toEqual([
    [{ first: 0, last: 0 }],
    [{ first: 0, last: 1 }],
    [{ first: 2, last: 2 }],
    [{ first: 0, last: 3 }],
    [
      { first: 0, last: 1 },
      { first: 4, last: 4 },
    ],
    [{ first: 5, last: 5 }],
    [{ first: 5, last: 6 }],
  ]);
  expect(needsOf([], () => null)).toEqual([]);
});

it('calls a point proved since the file of it that was read first, where all were', () => {
  const times: Readonly<Record<string, string>> = {
    'd0/INC-0.qcow2': '2026-03',
    'd1/INC-0.qcow2': '2026-02',
    'd0/INC-1.qcow2': '2026-01',
    'd1/INC-1.qcow2': '2026-04',
    'd0/INC-3.qcow2': '2026-05',
    'd0/INC-5.qcow2': '2026-06',
  };
  const needs = needsOf(POINTS, ({ disk, file }) => times[`${disk}/${file}`] ?? null);
  expect(needs.map(({ provedAt }) => provedAt)).toEqual([...['2026-02', '2026-01', null, null], ...[null, null, null]]);
});
