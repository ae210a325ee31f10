import { describe, expect, it } from 'vitest';
import { nameIn, type NameablePoint, pointNamed } from '../../../src/core/point-name.js';
import { QmpBackupError } from '../../../src/errors.js';

function point(id: string, chain: string | null, number: number, createdAt: string): NameablePoint {
  return { id, chain, number, createdAt: `2026-11-${createdAt}.000Z` };
}

const POINTS = [
  point('a1b2c3d4e5f6', 'a1b2c3d4e5f6', 0, '01T00:00:00'),
  point('a1b2c3ffffff', 'a1b2c3d4e5f6', 1, '02T00:00:00'),
  point('123456789012', 'a1b2c3d4e5f6', 2, '03T00:00:00'),
  point('feedfacecafe', null, 0, '04T00:00:00'),
  point('bbbbbb000000', 'bbbbbb000000', 0, '05T00:00:00'),
  point('bbbbbb000001', 'bbbbbb000000', 1, '06T00:00:00'),
  point('cccccc000000', null, 0, '06T12:00:00'),
];

function named(name: string, points: readonly NameablePoint[] = POINTS): string {
  try {
    return pointNamed(points, name).id;
  } catch (error) {
    if (error instanceof QmpBackupError && error.code === 'usage') return `${error.message} | ${error.hint}`;
    throw error;
  }
}

describe('pointNamed', () => {
  it.each([
    ['0', 'bbbbbb000000'],
    ['1', 'bbbbbb000001'],
    ['a1b2c3d4e5f6:1', 'a1b2c3ffffff'],
    ['latest', 'cccccc000000'],
    ['latest~0', 'cccccc000000'],
    ['latest~1', 'bbbbbb000001'],
    ['latest~6', 'a1b2c3d4e5f6'],
    ['feedfacecafe', 'feedfacecafe'],
    ['feedfa', 'feedfacecafe'],
    ['a1b2c3f', 'a1b2c3ffffff'],
    // A whole id, although it is also the name of a chain.
    ['a1b2c3d4e5f6', 'a1b2c3d4e5f6'],
    // Digits alone are an id only as a whole.
    ['123456789012', '123456789012'],
    ['2026-11-05 12:00Z', 'bbbbbb000000'],
    ['2026-11-03T00:00:00Z', '123456789012'],
    ['2099-01-01', 'cccccc000000'],
  ])('%s means %s', (name, id) => {
    expect(named(name)).toBe(id);
  });

  it.each([
    ['2', /^there is no point 2 \| There are: point a1b2c3d4e5f6:0, .*, copy feedfacecafe, point 0, point 1, copy/],
    ['2', /named by N of the newest chain, CHAIN:N, latest, latest~2, the first letters of an id/],
    ['a1b2c3d4e5f6:3', /^there is no point a1b2c3d4e5f6:3 /],
    ['latest~7', /^there is no point latest~7 /],
    ['latest~-1', /^there is no point latest~-1 /],
    [
      'a1b2c3',
      /^a1b2c3 fits 2 points: point a1b2c3d4e5f6:0 \(a1b2c3d4e5f6\), point a1b2c3d4e5f6:1 \(a1b2c3ffffff\) \| Na/,
    ],
    ['feedf', /^there is no point feedf \| Give at least 6 letters of an id, one of them no digit: feedfacecafe$/],
    ['123456', /^there is no point 123456 /],
    ['2026-10-31', /^there is no point 2026-10-31 \| The oldest is point a1b2c3d4e5f6:0, of 2026-11-01T00:00:00.000Z$/],
    ['A1B2C3D', /^there is no point A1B2C3D /],
    ['', /^there is no point {2}\| There are/],
  ])('%s is refused', (name, words) => {
    expect(named(name)).toMatch(words);
  });

  it('refuses two of the same name, which a catalog may have that somebody has altered', () => {
    const twice = [...POINTS, point('dddddd000000', 'bbbbbb000000', 1, '07T00:00:00')];
    expect(named('1', twice)).toMatch(/^1 fits 2 points: point 1 \(bbbbbb000001\), point 1 \(dddddd000000\)/);
  });

  it('refuses what is an id of one point and a time of another', () => {
    const odd = [...POINTS, point('2026-11-05', 'bbbbbb000000', 2, '07T00:00:00')];
    expect(named('2026-11-05', odd)).toMatch(/^2026-11-05 fits 2 points/);
  });

  it('says that there is none', () => {
    expect(named('latest', [])).toMatch(/^there is no point latest \| There are: none/);
    expect(named('0', [])).toMatch(/^there is no point 0/);
  });
});

describe('nameIn', () => {
  it('names each point so that it is found by that name', () => {
    for (const each of POINTS) {
      const name = nameIn(each, POINTS);
      expect(pointNamed(POINTS, name.slice(name.indexOf(' ') + 1))).toBe(each);
    }
  });
});
