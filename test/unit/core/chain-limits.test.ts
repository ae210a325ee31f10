import { describe, expect, it } from 'vitest';
import { chainLimitsIn, limitsOfChain, whyLongEnough } from '../../../src/core/chain-limits.js';
import type { PointDisk } from '../../../src/core/point.js';
import { catalog, entry, point } from '../../support/builders.js';

describe('--auto-full-after', () => {
  const { read, flag } = limitsOfChain('--auto-full-after');
  expect(flag).toBe('--auto-full-after');

  it.each<[string | number | readonly (string | number)[], object[]]>([
    ['30d', [{ kind: 'age', days: 30 }]],
    ['12h', [{ kind: 'age', days: 0.5 }]],
    ['2w', [{ kind: 'age', days: 14 }]],
    ['100', [{ kind: 'points', points: 100 }]],
    [1, [{ kind: 'points', points: 1 }]],
    ['150%', [{ kind: 'increments', percent: 150 }]],
    [
      ['30d', 100, '150%'],
      [
        { kind: 'age', days: 30 },
        { kind: 'points', points: 100 },
        { kind: 'increments', percent: 150 },
      ],
    ],
  ])('%j is understood', (given, limits) => {
    expect(chainLimitsIn(read(given))).toEqual(limits);
  });

  it('may be repeated', () => {
    expect(read('100', read('30d'))).toEqual(['30d', '100']);
  });

  it.each(['0', '-1', '1.5', '0%', '1.5%', '%', '0d', '30 d', '30m', '30d,100', 'x', '1e3', '1000000000', 0, 1.5, -1])(
    '%j is none',
    (given) => {
      expect(() => read(given)).toThrow(/give an age such as 30d.*points such as 100.*such as 150%/);
      expect(() => read(['30d', given])).toThrow(/give an age/);
    },
  );
});

describe('a chain is long enough', () => {
  const NOW = Date.parse('2026-11-30T12:00:00Z');
  /** A FULL of 1000 bytes, and increments of so many. */
  const chainOf = (at: string, ...increments: readonly number[]) =>
    catalog([
      point(0, [entry('a', 'FULL-1.qcow2', { allocated: 1000 })], { createdAt: at, chain: 'old' }),
      point(0, [entry('a', 'FULL-2.qcow2', { allocated: 1000 })], { createdAt: at }),
      ...increments.map((allocated, index) =>
        point(index + 1, [entry('a', `INC-${index + 3}.qcow2`, { parent: 'FULL-2.qcow2', allocated })], {
          createdAt: '2026-11-30T11:00:00Z',
        }),
      ),
      // A copy is in no chain.
      point(0, [entry('a', 'COPY-9.qcow2', { level: 'copy', allocated: 9000 })], { chain: null, level: 'copy' }),
    ]);
  const why = (of: ReturnType<typeof catalog>, ...limits: readonly string[]): string | undefined =>
    whyLongEnough(of, 'c1', chainLimitsIn(limits), NOW);

  it.each<[string, string, string | undefined]>([
    ['2026-10-31T12:00:00.000Z', '30d', 'the chain is 30 days old'],
    ['2026-10-31T12:00:00.001Z', '30d', undefined],
    ['2026-10-30T11:00:00.000Z', '30d', 'the chain is 31 days old'],
    ['2026-11-30T11:00:00.000Z', '1h', 'the chain is 1 hour old'],
    ['2026-11-28T13:00:00.000Z', '1d', 'the chain is 47 hours old'],
    ['2026-11-30T11:00:00.001Z', '1h', undefined],
    // A clock that went back.
    ['2026-12-30T12:00:00.000Z', '1h', undefined],
    ['2126-12-30T12:00:00.000Z', '1h', undefined],
    ['2026-11-30T12:00:00.000Z', '1h', undefined],
    ['once', '1h', undefined],
  ])('by age, of one since %s with %s: %s', (at, limit, expected) => {
    expect(why(chainOf(at, 1, 1), limit)).toBe(expected);
  });

  it.each<[number, string, string | undefined]>([
    [0, '1', 'the chain has 1 point'],
    [1, '3', undefined],
    [2, '3', 'the chain has 3 points'],
    [5, '3', 'the chain has 6 points'],
  ])('by its points, with %s increments and %s: %s', (count, limit, expected) => {
    expect(why(chainOf('2026-11-30T11:00:00Z', ...Array<number>(count).fill(1)), limit)).toBe(expected);
  });

  it.each<[readonly number[], string, string | undefined]>([
    [[], '1%', undefined],
    [[1000, 499], '150%', undefined],
    [[1000, 500], '150%', 'the increments take 150 % of the FULL'],
    [[1000, 799], '150%', 'the increments take 179 % of the FULL'],
  ])('by its increments, of %s bytes with %s: %s', (increments, limit, expected) => {
    expect(why(chainOf('2026-11-30T11:00:00Z', ...increments), limit)).toBe(expected);
  });

  it('by the increments of all disks together, against the newest FULL of each', () => {
    const size = (allocated: number, more: Partial<PointDisk> = {}) => ({ allocated, ...more });
    const of = catalog([
      point(0, [entry('a', 'FULL-1.qcow2', size(1000)), entry('b', 'FULL-1.qcow2', size(5000))]),
      point(1, [
        entry('a', 'INC-2.qcow2', size(300, { parent: 'FULL-1.qcow2' })),
        entry('b', 'FULL-2.qcow2', size(1000)),
      ]),
      point(2, [
        entry('a', 'INC-3.qcow2', size(9999, { parent: 'INC-2.qcow2', state: 'merged' })),
        entry('b', 'INC-3.qcow2', size(700, { parent: 'FULL-2.qcow2' })),
      ]),
    ]);
    expect([why(of, '50%'), why(of, '51%')]).toEqual(['the increments take 50 % of the FULL', undefined]);
  });

  it('by any of several limits, and never by none', () => {
    const of = chainOf('2026-11-01T12:00:00Z', 10, 10);
    expect(why(of)).toBeUndefined();
    expect(why(of, '30d', '100', '150%')).toBeUndefined();
    expect(why(of, '30d', '3', '1%')).toBe('the chain has 3 points');
    expect(why(of, '30d', '100', '2%')).toBe('the increments take 2 % of the FULL');
  });
});
