import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  differingRanges,
  hasDigest,
  listOfPieces,
  methodOf,
  pieceCount,
  piecesInList,
  strongest,
} from '../../../src/core/pieces.js';

const digest = fc.stringMatching(/^[0-9a-f]{64}$/);

describe('a list of pieces', () => {
  it('is read back as it was written', () => {
    fc.assert(
      fc.property(fc.array(digest), (digests) => {
        expect(piecesInList(listOfPieces(digests), digests.length, 'sha256')).toEqual(digests);
      }),
    );
  });

  it.each([
    ['of another length', 2, `${'a'.repeat(64)}\n`],
    ['that is cut off', 1, 'a'.repeat(64)],
    ['with something else in it', 1, `${'g'.repeat(64)}\n`],
    ['that is empty', 1, ''],
    ['by another method', 1, `${'a'.repeat(32)}\n`],
  ])('%s is none', (_, count, list) => expect(piecesInList(list, count, 'sha256')).toBeUndefined());

  it.each([
    [0, 0],
    [1, 1],
    [8, 1],
    [9, 2],
    [16, 2],
  ])('of %i bytes has %i pieces of 8', (size, count) => expect(pieceCount(size, 8)).toBe(count));
});

describe('differingRanges', () => {
  const at = (found: string, recorded: string): unknown =>
    differingRanges([...found], [...recorded], { bytes: 8, size: found.length * 8 - 3 });

  it('has neighbours as one range, and ends with the file', () => {
    expect(at('abcd', 'abcd')).toEqual([]);
    expect(at('aXXd', 'abcd')).toEqual([{ start: 8, end: 24 }]);
    expect(at('XbcX', 'abcd')).toEqual([
      { start: 0, end: 8 },
      { start: 24, end: 29 },
    ]);
  });
});

it('what is written anew is proved as what it was made of', () => {
  const pieces = { bytes: 1, sha256: 'a' };
  expect(methodOf({ sha256: null })).toBeNull();
  expect(methodOf({ sha256: 'a' })).toBe('sha256');
  expect(methodOf({ sha256: null, pieces })).toBe('sha256');
  expect(methodOf({ sha256: null, pieces: { ...pieces, method: 'gmac' } })).toBe('gmac');
  expect(strongest([])).toBeNull();
  expect(strongest([null, 'gmac'])).toBe('gmac');
  expect(strongest(['gmac', null, 'sha256'])).toBe('sha256');
});

it('a file is proved by either digest', () => {
  expect(hasDigest({ sha256: null })).toBe(false);
  expect(hasDigest({})).toBe(false);
  expect(hasDigest({ sha256: 'a' })).toBe(true);
  expect(hasDigest({ sha256: null, pieces: { bytes: 1, sha256: 'a' } })).toBe(true);
});
