import { describe, expect, it } from 'vitest';
import { progressText } from '../../../src/cli/render/progress.js';
import { table } from '../../../src/cli/render/table.js';
import { formatBytes, formatDuration, formatNames, formatTime } from '../../../src/cli/render/units.js';
import { MiB } from '../../support/builders.js';

it.each([
  [0, '0 B'],
  [1023, '1023 B'],
  [1536, '1.5 KiB'],
  [150 * MiB, '150 MiB'],
  [4096 * MiB, '4.0 GiB'],
])('%i bytes read %s', (bytes, text) => expect(formatBytes(bytes)).toBe(text));

it.each([
  [7, '7 ms'],
  [1500, '1.5 s'],
  [65_000, '1:05 min'],
  [3_725_000, '1:02:05 h'],
])('%i ms read %s', (ms, text) => expect(formatDuration(ms)).toBe(text));

it('a time that nobody can read is told as it is', () => {
  expect(formatTime('yester\u001bday')).toBe('yester?day');
  expect(formatTime('2026-11-21T12:00:03.000Z')).toMatch(/^2026-11-2\d \d\d:00:03$/);
});

describe('progress', () => {
  it('has percent, rate and time left', () => {
    const text = progressText({ disk: 'vd1', done: 50 * MiB, total: 200 * MiB }, 1000);
    expect(text).toBe('vd1: 25 %, 50.0 MiB of 200 MiB, 50.0 MiB/s, 3.0 s left');
  });

  it('of nothing to copy is all of it, and of nothing copied yet has no rate', () => {
    expect(progressText({ disk: 'vd1', done: 0, total: 0 }, 10)).toBe('vd1: 100 %, 0 B of 0 B');
  });
});

it('a table is aligned, without spaces at the end of a line', () => {
  expect(
    table([
      ['A', 'LONG', 'C'],
      ['aaa', 'b', ''],
    ]),
  ).toBe('A    LONG  C\naaa  b');
});

it.each([
  [['a'], 'a'],
  [['a', 'b', 'c', 'd', 'e', 'f'], 'a, b, c, d, e, f'],
  [['a', 'b', 'c', 'd', 'e', 'f', 'g'], 'a to g (7)'],
])('the names %j read %s', (names, text) => expect(formatNames(names)).toBe(text));
