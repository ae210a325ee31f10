import { expect, it } from 'vitest';
import { pointInTime } from '../../../src/core/asked-time.js';

const { read } = pointInTime('--at');

it.each([
  ['2026-11-20 10:00', new Date(2026, 10, 20, 10, 0, 0, 999)],
  ['2026-11-20T10:00:07', new Date(2026, 10, 20, 10, 0, 7, 999)],
  ['2026-11-20 10:00:07.25', new Date(2026, 10, 20, 10, 0, 7, 250)],
  [' 2026-11-20 ', new Date(2026, 10, 20, 23, 59, 59, 999)],
  ['2026-11-20T10:00:00Z', new Date('2026-11-20T10:00:00.999Z')],
  ['2026-11-20 10:00:00.000 +0130', new Date('2026-11-20T08:30:00.000Z')],
  ['2024-02-29', new Date(2024, 1, 29, 23, 59, 59, 999)],
])('reads %j as a local time unless it says otherwise', (text, time) => {
  const found = read(text);
  expect(found).toEqual({ lastMs: time.getTime(), words: text.trim() });
  expect(found && read(found)).toEqual(found);
});

it.each([
  ...['yesterday', '', '10:00', '2026', '2026-11', '20.11.2026', '2026-02-30', '2026-11-20 25:00', '2026-11-20 10'],
  ...['2026-13-01', '2026-11-20 10:61', '2026-11-20 10:00.5', '2026-11-20 10:00:00 CET', '2026-11-20 10:00+99:00'],
])('takes %j for no time', (text) => {
  expect(() => read(text)).toThrow('is no time. Give one such as "2026-11-20 10:00".');
});

it('takes a date as it is, and refuses one that is none', () => {
  expect(read(new Date(5))?.lastMs).toBe(5);
  expect(() => read(new Date('x'))).toThrow('is no time');
});
