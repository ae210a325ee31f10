import { expect, it } from 'vitest';
import { globMatcher } from '../../../src/core/glob.js';

it('matches names by * and ?, and takes all else as it is', () => {
  expect(['a.conf', '.conf'].map(globMatcher('*.conf'))).toEqual([true, true]);
  expect(['aXconf', 'a.conf.bak'].map(globMatcher('*.conf'))).toEqual([false, false]);
  expect(['(a)', '(ü)', '(ab)'].map(globMatcher('(?)'))).toEqual([true, true, false]);
});
