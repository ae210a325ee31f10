import { describe, expect, it } from 'vitest';
import { filesToRead, type ReadShare, readShare } from '../../../src/core/read-share.js';
import { fileKey } from '../../../src/core/verified.js';
import { entry, MiB } from '../../support/builders.js';

const files = Array.from({ length: 40 }, (_, index) => entry('d1', `INC-${index}.qcow2`, { size: (1 + index) * MiB }));
const never = (): null => null;
const keys = (share: ReadShare, notSince: string | null = null, readAt: (key: string) => string | null = never) =>
  filesToRead(files, { share, notSince, nowMs: 0 }, (each) => readAt(fileKey(each))).map(fileKey);

describe('the share of files that is read', () => {
  const { read } = readShare('--read-data');

  it.each([
    [true, { kind: 'all' }],
    [false, null],
    ['3/7', { kind: 'part', part: 3, of: 7 }],
    ['10%', { kind: 'percent', percent: 10 }],
    ['0.5%', { kind: 'percent', percent: 0.5 }],
    ['30d', { kind: 'within', days: 30, everyDays: 1 }],
    ['4w/12h', { kind: 'within', days: 28, everyDays: 0.5 }],
  ])('is what %s says', (given, share) => {
    expect(read(given)).toEqual(share);
  });

  it.each([
    '0/7',
    '8/7',
    '1/0',
    '0%',
    '101%',
    'all',
    '3',
    '-1%',
    '1/7/2',
    '30',
    '30d/',
    '30d/0d',
    7 as unknown as string,
  ])('is no %s', (given) => {
    expect(() => read(given)).toThrow(/is no share/);
  });

  it('is of seven runs each a part of its own, and all together', () => {
    const parts = [1, 2, 3, 4, 5, 6, 7].map((part) => keys({ kind: 'part', part, of: 7 }));
    expect(parts.flat().toSorted()).toEqual(files.map(fileKey).toSorted());
    expect(parts.filter((each) => each.length > 0).length).toBeGreaterThan(4);
  });

  it('stays the same for a file, whatever others come and go', () => {
    const third: ReadShare = { kind: 'part', part: 3, of: 7 };
    const fewer = filesToRead(files.slice(20), { share: third, notSince: null, nowMs: 0 }, never).map(fileKey);
    expect(keys(third).filter((key) => files.slice(20).some((each) => fileKey(each) === key))).toEqual(fewer);
  });

  it('of ten percent is what was not read for the longest: ten runs read all', () => {
    const read = new Map<string, string>();
    for (let run = 0; run < 10; run += 1) {
      for (const key of keys({ kind: 'percent', percent: 10 }, null, (key) => read.get(key) ?? null)) {
        read.set(key, `2026-11-${10 + run}`);
      }
    }
    expect(read.size).toBe(files.length);
  });

  it('leaves out what was read since, and what has no digest', () => {
    const readAt = (key: string): string => (key.endsWith('-3.qcow2') ? '2026-11-01' : '2026-11-20');
    expect(keys({ kind: 'all' }, '2026-11-10', readAt)).toEqual(['d1/INC-3.qcow2']);
    const without = entry('d1', 'FULL-1.qcow2', { sha256: null });
    expect(filesToRead([without], { share: { kind: 'all' }, notSince: null, nowMs: 0 }, never)).toEqual([]);
    expect(filesToRead(files, { share: null, notSince: null, nowMs: 0 }, never)).toEqual([]);
  });

  it.each([
    { days: 30, everyDays: 1 },
    { days: 30, everyDays: 0.5 },
    { days: 7, everyDays: 1 },
    { days: 2, everyDays: 1 },
    { days: 1, everyDays: 7 },
  ])('of $days d reads all in that time, and nothing more than twice, by runs every $everyDays d', (within) => {
    const DAY_MS = 86_400_000;
    const written = files.map((each, index) => ({ ...each, mtimeMs: index * DAY_MS }));
    const readAt = new Map<string, number>();
    const reads = new Map<string, number>();
    let most = 0;
    const lastDay = 40 + 6 * within.days;
    for (let day = 0; day <= lastDay; day += within.everyDays) {
      const there = written.filter(({ mtimeMs }) => mtimeMs <= day * DAY_MS);
      const ask = { share: { kind: 'within' as const, ...within }, notSince: null, nowMs: day * DAY_MS };
      const due = filesToRead(there, ask, (each) => {
        const at = readAt.get(fileKey(each));
        return at === undefined ? null : new Date(at).toISOString();
      });
      for (const each of due) {
        readAt.set(fileKey(each), day * DAY_MS);
        reads.set(fileKey(each), (reads.get(fileKey(each)) ?? 0) + 1);
      }
      // Before the next run none may be older than was asked, unless the runs themselves come less often.
      for (const each of there) {
        const age = (day * DAY_MS - (readAt.get(fileKey(each)) ?? each.mtimeMs)) / DAY_MS + within.everyDays;
        most = Math.max(most, age);
      }
    }
    expect(most).toBeLessThanOrEqual(Math.max(within.days, within.everyDays));
    const windows = Math.ceil(lastDay / Math.max(within.days, within.everyDays));
    if (within.days >= 4 * within.everyDays) expect(Math.max(...reads.values())).toBeLessThanOrEqual(2 * windows);
  });
});
