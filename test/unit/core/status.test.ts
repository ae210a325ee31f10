import { describe, expect, it } from 'vitest';
import { judgeStatus, spanText, type StatusFacts, worstLevel } from '../../../src/core/status.js';

const HOUR_MS = 3_600_000;
const WELL: StatusFacts = {
  ...{ unread: null, isGone: false, ageMs: HOUR_MS, aheadMs: 0, maxAgeMs: 26 * HOUR_MS, damaged: 0, notBooted: null },
  ...{ whyDamaged: null, unknown: [] },
  run: { result: 'ok', failures: [], warnings: [] },
};

describe('whether all is well with a VM', () => {
  it.each<[string, Partial<StatusFacts>, string, RegExp | null]>([
    ['all is well', {}, 'ok', null],
    ['no run is known', { run: null }, 'ok', null],
    ['its point is as old as it may be', { ageMs: 26 * HOUR_MS }, 'ok', null],
    ['its point is too old', { ageMs: 30 * HOUR_MS }, 'warning', /30 h old, 26 h are allowed/],
    ['nobody said how old it may be', { ageMs: 9_000 * HOUR_MS, maxAgeMs: null }, 'ok', null],
    ['a clock went back', { ageMs: 0, aheadMs: HOUR_MS }, 'ok', null],
    ['a clock was wrong', { aheadMs: 900 * HOUR_MS }, 'warning', /dated 37 d in the future: a clock is wrong/],
    ['there is no good point', { ageMs: null }, 'critical', /no good point/],
    [
      'none can be restored',
      { ageMs: null, damaged: 2, whyDamaged: 'd1/I: it is missing' },
      'critical',
      /^there is no good point: d1\/I: it is missing$/,
    ],
    ['its target cannot be read', { ageMs: null, unread: 'cannot read it' }, 'critical', /^cannot read it$/],
    ['it is gone', { isGone: true }, 'critical', /no longer found/],
    [
      'a point is damaged',
      { damaged: 1, whyDamaged: 'd1/I: it is missing' },
      'warning',
      /^1 point cannot be restored: d1\/I: it is missing$/,
    ],
    [
      'points are damaged',
      { damaged: 2, whyDamaged: 'd1/I: it is missing' },
      'warning',
      /^2 points cannot be restored: d1\/I: it is missing$/,
    ],
    [
      'something is not known',
      { unknown: ['what was damaged is not known'] },
      'warning',
      /^what was damaged is not known$/,
    ],
    ['a point does not boot', { notBooted: 'it does not boot' }, 'warning', /does not boot/],
    [
      'it failed',
      { run: { result: 'failed', failures: ['backup failed: x'], warnings: ['w'] } },
      'critical',
      /^backup failed: x$/,
    ],
    [
      'it failed in silence',
      { run: { result: 'failed', failures: [], warnings: [] } },
      'critical',
      /the last run failed/,
    ],
    ['it warned', { run: { result: 'warnings', failures: [], warnings: ['prune: w'] } }, 'warning', /^prune: w$/],
    [
      'it is off and was left out',
      { ageMs: 900 * HOUR_MS, run: { result: 'skipped', failures: [], warnings: [] } },
      'ok',
      null,
    ],
    [
      'it is off, and was never backed up',
      { ageMs: null, run: { result: 'skipped', failures: [], warnings: [] } },
      'critical',
      /no good point/,
    ],
  ])('where %s', (_, facts, level, words) => {
    const judged = judgeStatus({ ...WELL, ...facts });
    expect(judged.level).toBe(level);
    if (words === null) expect(judged.reasons).toEqual([]);
    else expect(judged.reasons[0]?.text).toMatch(words);
  });

  it('tells all that is wrong, the worst first', () => {
    const run = { result: 'failed', failures: ['backup failed'], warnings: ['not told beside a failure'] } as const;
    const { reasons } = judgeStatus({ ...WELL, ageMs: 30 * HOUR_MS, damaged: 1, run });
    expect(reasons.map(({ level }) => level)).toEqual(['critical', 'warning', 'warning']);
  });

  it('of several is that of the worst', () => {
    expect(worstLevel([])).toBe('ok');
    expect(worstLevel(['ok', 'warning'])).toBe('warning');
    expect(worstLevel(['warning', 'critical', 'ok'])).toBe('critical');
  });

  it('tells a time as people do', () => {
    expect([-5, 59_000, 90 * 60_000, 26 * HOUR_MS, 80 * HOUR_MS].map(spanText)).toEqual([
      '0 min',
      '0 min',
      '90 min',
      '26 h',
      '3 d',
    ]);
  });
});
