import { describe, expect, it } from 'vitest';
import { filesToRead, type ReadShare, readShare } from '../../../src/core/read-share.js';
import { fileKey } from '../../../src/core/verified.js';
import { entry, MiB } from '../../support/builders.js';

const files = Array.from({ length: 40 }, (_, index) => entry('d1', `INC-${index}.qcow2`, { size: (1 + index) * MiB }));
const never = (): null => null;
const keys = (share: ReadShare, notSince: string | null = null, readAt: (key: string) => string | null = never) =>
  filesToRead(files, { share, notSince }, (each) => readAt(fileKey(each))).map(fileKey);

describe('the share of files that is read', () => {
  const { read } = readShare('--read-data');

  it.each([
    [true, { kind: 'all' }],
    [false, null],
    ['3/7', { kind: 'part', part: 3, of: 7 }],
    ['10%', { kind: 'percent', percent: 10 }],
    ['0.5%', { kind: 'percent', percent: 0.5 }],
  ])('is what %s says', (given, share) => {
    expect(read(given)).toEqual(share);
  });

  it.each(['0/7', '8/7', '1/0', '0%', '101%', 'all', '3', '-1%', '1/7/2', 7 as unknown as string])(
    'is no %s',
    (given) => {
      expect(() => read(given)).toThrow(/is no share/);
    },
  );

  it('is of seven runs each a part of its own, and all together', () => {
    const parts = [1, 2, 3, 4, 5, 6, 7].map((part) => keys({ kind: 'part', part, of: 7 }));
    expect(parts.flat().toSorted()).toEqual(files.map(fileKey).toSorted());
    expect(parts.filter((each) => each.length > 0).length).toBeGreaterThan(4);
  });

  it('stays the same for a file, whatever others come and go', () => {
    const third: ReadShare = { kind: 'part', part: 3, of: 7 };
    const fewer = filesToRead(files.slice(20), { share: third, notSince: null }, never).map(fileKey);
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
    expect(filesToRead([without], { share: { kind: 'all' }, notSince: null }, never)).toEqual([]);
    expect(filesToRead(files, { share: null, notSince: null }, never)).toEqual([]);
  });
});
