import { expect, it } from 'vitest';
import { nearestName } from '../../../src/core/nearest-name.js';

const NAMES = ['target', 'level', 'keep', 'verify', 'max-age', 'boot-every'];

it.each([
  ['taget', 'target'],
  ['tragte', 'target'],
  ['Level', 'level'],
  ['maxage', 'max-age'],
  ['boot-evry', 'boot-every'],
  ['kepe', 'keep'],
  ['notify', undefined],
  ['socket', undefined],
  ['x', undefined],
])('%s is meant for %s', (given, meant) => {
  expect(nearestName(given, NAMES)).toBe(meant);
});
