import { expect, it } from 'vitest';
import { isDue } from '../../../src/core/due-checks.js';

const DAY_MS = 86_400_000;
const NOW = 100 * DAY_MS;

it.each([
  ['never made', null, 7, true],
  ['made a week ago', NOW - 7 * DAY_MS, 7, true],
  ['made a week ago less a quarter of an hour', NOW - 7 * DAY_MS + 900_000, 7, true],
  ['made a week ago less two hours', NOW - 7 * DAY_MS + 7_200_000, 7, false],
  ['made yesterday', NOW - DAY_MS, 7, false],
  ['an hourly one made 50 minutes ago', NOW - 50 * 60_000, 1 / 24, false],
  ['made in the future', NOW + DAY_MS, 7, true],
] as const)('a check %s', (_, last, everyDays, due) => {
  expect(isDue(last, everyDays, NOW)).toBe(due);
});
