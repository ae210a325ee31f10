import fc from 'fast-check';
import { format } from 'date-fns/format';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  COUNT_RULES,
  type CountRule,
  onlyAsNeeded,
  type RetentionRules,
  type PointVerdict,
} from '../../../src/core/retention.js';
import { historyOf, type PointSpec, remaining, retained, rulesOf } from '../../support/histories.js';

/** Natural buckets are of local time: that of a place where clocks are changed. */
const before = process.env.TZ;
beforeAll(() => {
  process.env.TZ = 'Europe/Berlin';
  expect(new Date('2026-07-01T00:00:00Z').getTimezoneOffset()).toBe(-120);
});
afterAll(() => {
  if (before === undefined) delete process.env.TZ;
  else process.env.TZ = before;
});

/** `<index>: <reasons>` of each point; `-` for one that is dropped. */
function table(verdicts: readonly PointVerdict[]): readonly string[] {
  return verdicts.map(({ reasons }, index) => `${index}: ${reasons.map(({ text }) => text).join(', ') || '-'}`);
}

const local = (at: string): string => format(new Date(at), 'yyyy-MM-dd HH:mm xxx');

describe('two years of hourly points', () => {
  const first = Date.parse('2024-11-29T22:05:00Z');
  const hours = Math.round(2 * 365 * 24);
  const specs = Array.from({ length: hours }, (_, hour) => ({ at: new Date(first + hour * 3_600_000).toISOString() }));

  const SETS: Readonly<Record<string, RetentionRules>> = {
    'last-5': rulesOf({ last: 5 }),
    'hourly-24': rulesOf({ hourly: 24 }),
    'daily-7': rulesOf({ daily: 7 }),
    'daily-400': rulesOf({ daily: 400 }),
    'weekly-60': rulesOf({ weekly: 60 }),
    'monthly-12': rulesOf({ monthly: 12 }),
    'yearly-10': rulesOf({ yearly: 10 }),
    'within-30d': rulesOf({ within: 30 }),
    'within-36h': rulesOf({ within: 1.5 }),
    'hourly-24-daily-7-weekly-4-monthly-12-yearly-2': rulesOf({
      hourly: 24,
      daily: 7,
      weekly: 4,
      monthly: 12,
      yearly: 2,
    }),
    'last-1-monthly-30-within-2d': rulesOf({ last: 1, monthly: 30, within: 2 }),
    'hourly-30-weekly-2-yearly-1': rulesOf({ hourly: 30, weekly: 2, yearly: 1 }),
  };

  // Written anew by vitest --update.
  it.each(Object.entries(SETS))('are kept by %s as they were', async (name, rules) => {
    const kept = retained(historyOf(specs), rules).filter(({ reasons }) => reasons.length > 0);
    const rows = kept.map(({ point, reasons }) => ({
      at: local(point.createdAt),
      why: reasons.map(({ text }) => text).join(', '),
    }));
    const runs: { from: string; to: string; why: string; count: number }[] = [];
    for (const { at, why } of rows) {
      const last = runs.at(-1);
      if (last?.why === why) Object.assign(last, { to: at, count: last.count + 1 });
      else runs.push({ from: at, to: at, why, count: 1 });
    }
    const lines = runs.map(({ from, to, why, count }) =>
      count === 1 ? `${from}  ${why}` : `${from} to ${to} (${count})  ${why}`,
    );
    await expect(`${lines.join('\n')}\n`).toMatchFileSnapshot(
      join(import.meta.dirname, `../../golden/retention/${name}.txt`),
    );
  });
});

describe('a rule', () => {
  const days = (...at: readonly string[]): readonly PointSpec[] => at.map((each) => ({ at: each }));

  it('takes the newest point of each of the newest buckets that hold one, however long ago', () => {
    const specs = days('2024-01-01T10:00:00Z', '2024-01-01T11:00:00Z', '2025-06-01T10:00:00Z', '2026-01-01T10:00:00Z');
    expect(table(retained(historyOf(specs), rulesOf({ daily: 3 })))).toEqual([
      '0: -',
      '1: daily 2024-01-01',
      '2: daily 2025-06-01',
      '3: daily 2026-01-01',
    ]);
  });

  it('is by local time: the day ends at midnight here', () => {
    const specs = days('2026-01-01T22:30:00Z', '2026-01-01T23:30:00Z', '2026-07-01T21:30:00Z', '2026-07-01T22:30:00Z');
    expect(table(retained(historyOf(specs), rulesOf({ daily: 9 })))).toEqual([
      '0: daily 2026-01-01',
      '1: daily 2026-01-02',
      '2: daily 2026-07-01',
      '3: daily 2026-07-02',
    ]);
  });

  it('has weeks of ISO 8601, whose first may begin in the year before', () => {
    const specs = days('2024-12-29T12:00:00Z', '2024-12-30T12:00:00Z', '2025-01-01T12:00:00Z', '2027-01-02T12:00:00Z');
    expect(table(retained(historyOf(specs), rulesOf({ weekly: 9 })))).toEqual([
      '0: weekly 2024-W52',
      '1: -',
      '2: weekly 2025-W01',
      '3: weekly 2026-W53',
    ]);
  });

  it('takes the hour that the clock shows twice in autumn for one, and knows of none that it leaves out in spring', () => {
    const autumn = days('2026-10-25T00:10:00Z', '2026-10-25T00:50:00Z', '2026-10-25T01:10:00Z', '2026-10-25T02:10:00Z');
    expect(table(retained(historyOf(autumn), rulesOf({ hourly: 9 })))).toEqual([
      '0: -',
      '1: -',
      '2: hourly 2026-10-25 02',
      '3: hourly 2026-10-25 03',
    ]);
    const spring = days('2026-03-29T00:10:00Z', '2026-03-29T01:10:00Z');
    expect(table(retained(historyOf(spring), rulesOf({ hourly: 9 })))).toEqual([
      '0: hourly 2026-03-29 01',
      '1: hourly 2026-03-29 03',
    ]);
  });

  it('tells two points of one second apart by their order', () => {
    const specs = days('2026-01-01T10:00:00.000Z', '2026-01-01T10:00:00.000Z', '2026-01-01T10:00:00.000Z');
    expect(table(retained(historyOf(specs), rulesOf({ last: 2, yearly: 1 })))).toEqual([
      '0: -',
      '1: last 2',
      '2: last 1, yearly 2026',
    ]);
  });

  it('drops nothing for one run under a clock that is a year ahead, and lets the old go as the new take up the span', () => {
    const old = days('2026-01-01T10:00:00Z', '2026-01-20T10:00:00Z', '2026-01-30T10:00:00Z');
    const within = rulesOf({ within: 25 });
    const gap = ', without the gap after it';
    expect(table(retained(historyOf([...old, ...days('2027-01-31T10:00:00Z')]), within))).toEqual([
      '0: -',
      `1: within 25 days of the newest${gap}`,
      `2: within 25 days of the newest${gap}`,
      '3: within 25 days of the newest',
    ]);
    const later = days('2027-01-31T10:00:00Z', '2027-02-18T10:00:00Z');
    expect(table(retained(historyOf([...old, ...later]), within)).slice(0, 3)).toEqual([
      '0: -',
      '1: -',
      `2: within 25 days of the newest${gap}`,
    ]);
    const full = days('2027-01-31T10:00:00Z', '2027-02-18T10:00:00Z', '2027-02-26T10:00:00Z');
    expect(table(retained(historyOf([...old, ...full]), within)).slice(0, 3)).toEqual(['0: -', '1: -', '2: -']);
  });

  it('lets one gap alone not count: points further apart than within are not kept for ever', () => {
    const weeks = days('2026-01-01T10:00:00Z', '2026-01-08T10:00:00Z', '2026-01-15T10:00:00Z', '2026-01-22T10:00:00Z');
    const kept = retained(historyOf(weeks), rulesOf({ within: 3 })).map(({ reasons }) => reasons.length > 0);
    expect(kept).toEqual([false, false, true, true]);
  });

  it('keeps what one of several keeps', () => {
    const specs = days('2026-01-01T10:00:00Z', '2026-01-02T09:00:00Z', '2026-01-02T10:00:00Z');
    expect(table(retained(historyOf(specs), rulesOf({ last: 1, daily: 2 })))).toEqual([
      '0: daily 2026-01-01',
      '1: -',
      '2: last 1, daily 2026-01-02',
    ]);
  });

  it('of time counts back from the newest point, in days of the calendar', () => {
    const specs = days('2026-10-24T10:00:00Z', '2026-10-25T11:00:00Z', '2026-10-26T11:00:00Z');
    const kept = (within: number): readonly string[] => table(retained(historyOf(specs), rulesOf({ within })));
    // The day between has 25 hours: the first is 49 hours before the last.
    expect(kept(1)).toEqual(['0: -', '1: within 1 day of the newest', '2: within 1 day of the newest']);
    expect(kept(0.5)[1]).toBe('1: -');
    expect(kept(2)[0]).toBe('0: within 2 days of the newest');
    expect(kept(1.95)[0]).toBe('0: -');
    expect(kept(1.5)[1]).toBe('1: within 36 hours of the newest');
  });
});

describe('whatever the rules say', () => {
  const NEWEST = rulesOf({ last: 1 });
  const hour = (number: number, more: Omit<PointSpec, 'at'> = {}): PointSpec => ({
    at: `2026-01-01T${`${number}`.padStart(2, '0')}:00:00.000Z`,
    ...more,
  });

  it('parents of kept points stay, and are told as needed by the newest that does', () => {
    const specs = [hour(0), hour(1, { on: 0 }), hour(2, { on: 1 }), hour(3, { on: 1 }), hour(4, { on: 3 })];
    expect(table(retained(historyOf(specs), NEWEST))).toEqual([
      '0: needed by INC-2.qcow2',
      '1: needed by INC-4.qcow2',
      '2: -',
      '3: needed by INC-5.qcow2',
      '4: last 1',
    ]);
  });

  it('pinned points stay, with their parents', () => {
    const pinned = { pinned: true, note: 'before upgrade' } as const;
    const specs = [hour(0), hour(1, { on: 0, more: pinned }), hour(2), hour(3, { more: { pinned: true } }), hour(4)];
    expect(table(retained(historyOf(specs), NEWEST))).toEqual([
      '0: needed by INC-2.qcow2',
      '1: pinned: before upgrade',
      '2: -',
      '3: pinned',
      '4: last 1',
    ]);
  });

  it('a damaged point fills no bucket, and goes only where it is told to', () => {
    const specs = [hour(0), hour(1, { fault: 'x is damaged' }), hour(2, { fault: 'y is damaged' })];
    const rules = rulesOf({ daily: 1 });
    expect(table(retained(historyOf(specs), rules))).toEqual([
      '0: daily 2026-01-01',
      '1: not whole: x is damaged',
      '2: not whole: y is damaged',
    ]);
    expect(table(retained(historyOf(specs), rules, { dropDamaged: true }))).toEqual([
      '0: daily 2026-01-01',
      '1: -',
      '2: -',
    ]);
  });

  it('a point from the future fills no bucket, and one dated before an older one of its chain', () => {
    const specs = [hour(0), hour(5), hour(3), hour(6), { at: '2027-01-01T00:00:00.000Z' }, { at: 'yesterday' }];
    const now = Date.parse('2026-06-01T00:00:00Z');
    expect(table(retained(historyOf(specs), rulesOf({ last: 1 }), { now }))).toEqual([
      '0: -',
      '1: shows that a later point is out of order',
      '2: dated before FULL-2.qcow2, which is older',
      '3: last 1',
      '4: dated in the future',
      '5: its time cannot be read: yesterday',
    ]);
  });

  it('chains are looked at apart: a clock that was wrong in one says nothing of another', () => {
    const specs = [hour(5, { chain: 'a' }), hour(3, { chain: 'b' }), hour(4, { chain: null }), hour(6, { chain: 'b' })];
    expect(table(retained(historyOf(specs), NEWEST))).toEqual(['0: -', '1: -', '2: -', '3: last 1']);
  });

  it('months of one VM are one history, and their files are apart', () => {
    const specs = [hour(0, { target: '/a' }), hour(1, { target: '/a' }), hour(2, { target: '/b', on: 1 })];
    // The parent of the last has the name of a file in the other month only.
    expect(table(retained(historyOf(specs), rulesOf({ last: 1 })))).toEqual(['0: -', '1: -', '2: last 1']);
  });

  it('the next increment keeps what it builds on', () => {
    expect(table(retained(historyOf([hour(0), hour(1, { tracked: true }), hour(2)]), NEWEST))).toEqual([
      '0: -',
      '1: the next increment builds on it',
      '2: last 1',
    ]);
  });

  it('the last good point of a disk stays, with what it needs, unless all may go', () => {
    const specs = [hour(0), hour(1, { on: 0 }), hour(2)];
    const history = historyOf(specs).map((each, index) => ({
      ...each,
      good: new Set(index < 2 ? ['d1', 'gone'] : ['d1']),
    }));
    expect(table(retained(history, NEWEST))).toEqual([
      '0: needed by INC-2.qcow2',
      '1: the last good point of gone',
      '2: last 1',
    ]);
    expect(table(retained(history, NEWEST, { allowRemoveAll: true }))).toEqual(['0: -', '1: -', '2: last 1']);
  });

  it('a damaged point that alone has the good state of a disk is not dropped as damaged', () => {
    const history = historyOf([hour(0, { fault: 'd2 is damaged' }), hour(1)]).map((each, index) => ({
      ...each,
      good: new Set(index === 0 ? ['d1'] : ['d2']),
    }));
    expect(table(retained(history, NEWEST, { dropDamaged: true }))[0]).toBe('0: the last good point of d1');
  });
});

describe('--keep-free', () => {
  const hour = (number: number, on: number | null = null): PointSpec => ({
    at: new Date(Date.parse('2026-01-01T00:00:00Z') + number * 3_600_000).toISOString(),
    on,
  });
  const verdicts = (specs: readonly PointSpec[]): readonly PointVerdict[] =>
    retained(historyOf(specs), rulesOf({ last: 1 }));
  const dropped = (specs: readonly PointSpec[], need: number): readonly number[] =>
    onlyAsNeeded(verdicts(specs), need).flatMap(({ reasons }, index) => (reasons.length === 0 ? [index] : []));

  it('drops the oldest, as many as are needed, and says so of the others', () => {
    const specs = [hour(0), hour(1), hour(2), hour(3)];
    expect([0, 1, 1000, 1001, 3000, 9999].map((need) => dropped(specs, need))).toEqual([
      [],
      [0],
      [0],
      [0, 1],
      [0, 1, 2],
      [0, 1, 2],
    ]);
    expect(table(onlyAsNeeded(verdicts(specs), 1000))).toEqual([
      '0: -',
      '1: enough is free without dropping it',
      '2: enough is free without dropping it',
      '3: last 1',
    ]);
  });

  it('drops a point only after those that build on it', () => {
    const specs = [hour(0), hour(1, 0), hour(2, 1), hour(3), hour(4)];
    expect([1000, 2000, 3000, 4000].map((need) => dropped(specs, need))).toEqual([
      [2],
      [1, 2],
      [0, 1, 2],
      [0, 1, 2, 3],
    ]);
  });
});

describe('any history', () => {
  const NOW = Date.parse('2026-06-01T00:00:00Z');
  const spec = fc.record({
    hours: fc.integer({ min: -3, max: 40 }),
    // How far back the parent is; 0 is a FULL.
    back: fc.integer({ min: 0, max: 4 }),
    chain: fc.constantFrom<string | null>('a', 'a', 'b', null),
    fault: fc.oneof(
      { weight: 6, arbitrary: fc.constant(null) },
      { weight: 1, arbitrary: fc.constant('it is damaged') },
    ),
    pinned: fc.oneof(
      { weight: 6, arbitrary: fc.constant(undefined) },
      { weight: 1, arbitrary: fc.constant(true as const) },
    ),
    tracked: fc.oneof({ weight: 6, arbitrary: fc.constant(false) }, { weight: 1, arbitrary: fc.constant(true) }),
    good: fc.subarray(['d1', 'd2', 'd3']),
  });
  const histories = fc.array(spec, { maxLength: 40 }).map((specs) => {
    let ms = Date.parse('2026-05-20T00:00:00Z');
    const made = historyOf(
      specs.map(({ hours, back, chain, fault, pinned, tracked }, index) => {
        ms += hours * 3_600_000;
        const on = back === 0 || index < back ? null : index - back;
        return { at: new Date(ms).toISOString(), on, chain, fault, tracked, more: pinned ? { pinned } : {} };
      }),
    );
    return made.map((each, index) => ({ ...each, good: new Set(specs[index]?.good) }));
  });
  const count = fc.option(fc.integer({ min: 1, max: 5 }), { freq: 2 });
  const rules = fc
    .record({ last: count, hourly: count, daily: count, weekly: count, monthly: count, yearly: count, within: count })
    .map(rulesOf);
  const options = fc.record({
    now: fc.constantFrom(NOW, Date.parse('2026-05-22T00:00:00Z')),
    dropDamaged: fc.boolean(),
    allowRemoveAll: fc.boolean(),
  });
  const cases = fc.tuple(histories, rules, options);
  const holds = (test: (...args: [...Parameters<typeof retained>]) => void): void =>
    fc.assert(
      fc.property(cases, ([history, ruled, more]) => test(history, ruled, more)),
      { numRuns: 1500 },
    );

  it('has every kept point with its parents', () => {
    holds((history, ruled, more) => {
      const left = remaining(retained(history, ruled, more));
      const files = new Set(left.flatMap(({ point }) => point.disks.map(({ file }) => file)));
      for (const { point } of left)
        for (const { parent } of point.disks) expect(parent === null || files.has(parent)).toBe(true);
    });
  });

  it('is pruned by two runs as by one', () => {
    holds((history, ruled, more) => {
      const left = remaining(retained(history, ruled, more));
      expect(remaining(retained(left, ruled, more)).map(({ point }) => point.id)).toEqual(
        left.map(({ point }) => point.id),
      );
    });
  });

  it('keeps pins, damage, and the last good state of each disk, unless it is told otherwise', () => {
    holds((history, ruled, more) => {
      const left = remaining(retained(history, ruled, more));
      for (const each of history.filter(({ point }) => point.pinned))
        expect(left.map(({ point }) => point)).toContain(each.point);
      if (more?.dropDamaged !== true) {
        expect(left.filter(({ fault }) => fault !== null)).toHaveLength(
          history.filter(({ fault }) => fault !== null).length,
        );
      }
      if (more?.allowRemoveAll === true) return;
      const disksOf = (points: readonly { readonly good: ReadonlySet<string> }[]): readonly string[] =>
        [...new Set(points.flatMap(({ good }) => [...good]))].toSorted();
      expect(disksOf(left)).toEqual(disksOf(history));
    });
  });

  it('frees what is asked for as far as the rules let it, with no point that could have stayed, and no parent gone', () => {
    fc.assert(
      fc.property(cases, fc.integer({ min: 0, max: 45_000 }), ([history, ruled, more], need) => {
        const all = retained(history, ruled, more);
        const some = onlyAsNeeded(all, need);
        const gone = (verdicts: readonly PointVerdict[]): number =>
          verdicts.filter(({ reasons }) => reasons.length === 0).length;
        expect(gone(some)).toBe(Math.min(gone(all), Math.ceil(need / 1000)));
        const files = new Set(remaining(some).flatMap(({ point }) => point.disks.map(({ file }) => file)));
        for (const { point } of remaining(some))
          for (const { parent } of point.disks) expect(parent === null || files.has(parent)).toBe(true);
      }),
      { numRuns: 1000 },
    );
  });

  it('is kept by a count rule as by the plainest way to count', () => {
    const FORMS: Readonly<Record<CountRule, string>> = {
      last: '',
      hourly: 'yyyy-MM-dd HH',
      daily: 'yyyy-MM-dd',
      weekly: "RRRR-'W'II",
      monthly: 'yyyy-MM',
      yearly: 'yyyy',
    };
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 0, max: 20_000 }), { maxLength: 60 }),
        fc.constantFrom(...COUNT_RULES),
        fc.integer({ min: 1, max: 20 }),
        (hours, rule, most) => {
          const specs = hours.map((hour) => ({ at: new Date(Date.UTC(2024, 0, 1, hour)).toISOString(), chain: null }));
          const buckets = new Map<string, number>();
          const ordered = specs
            .map(({ at }, index) => ({ at, index }))
            .toSorted((a, b) => (a.at < b.at ? -1 : a.at > b.at ? 1 : a.index - b.index));
          for (const { at, index } of ordered)
            buckets.set(rule === 'last' ? `${index}` : format(new Date(at), FORMS[rule]), index);
          const expected = [...buckets]
            .slice(-most)
            .map(([, index]) => index)
            .toSorted((a, b) => a - b);
          const found = retained(historyOf(specs), rulesOf({ [rule]: most }), { allowRemoveAll: true });
          expect(found.flatMap(({ reasons }, index) => (reasons.length > 0 ? [index] : []))).toEqual(expected);
        },
      ),
      { numRuns: 500 },
    );
  });
});
