import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { planBackup } from '../../../src/core/plan.js';
import {
  defaultReserve,
  floorOf,
  imageNeeded,
  LEAST_FLOOR,
  runningOut,
  spaceNeeded,
  tooLittleSpace,
} from '../../../src/core/space.js';
import type { QmpBackupError } from '../../../src/errors.js';
import { bitmap, catalog, entry, MiB, planInput, point, source } from '../../support/builders.js';

const GiB = 1024 * MiB;

describe('what a disk can need', () => {
  it('is for a whole copy all that is allocated, but never more than the disk has, and its metadata', () => {
    const small = imageNeeded({ source: source('a', { allocated: 10 * MiB }), copyBitmap: null });
    expect(small).toBeGreaterThan(10 * MiB);
    expect(small).toBeLessThan(11 * MiB);
    // Snapshots and bitmaps inside an image, or a long chain of overlays.
    const large = imageNeeded({ source: source('a', { allocated: 500 * MiB }), copyBitmap: null });
    expect(large).toBeGreaterThan(64 * MiB);
    expect(large).toBeLessThan(65 * MiB);
  });

  it('is for an increment what its bitmap counts', () => {
    const disk = source('a', {
      allocated: 60 * MiB,
      bitmaps: [bitmap('other', { count: 50 * MiB }), bitmap('b', { count: 3 * MiB })],
    });
    const need = imageNeeded({ source: disk, copyBitmap: 'b' });
    expect(need).toBeGreaterThan(3 * MiB);
    expect(need).toBeLessThan(4 * MiB);
  });

  it('is the whole disk where the bitmap cannot be seen', () => {
    expect(imageNeeded({ source: source('a'), copyBitmap: 'gone' })).toBeGreaterThan(64 * MiB);
  });

  it('is no more than what is allocated where nobody has counted the changes', () => {
    const uncounted = bitmap('b', { count: 1024 * MiB, uncounted: true });
    const disk = source('a', { virtualSize: 1024 * MiB, allocated: 10 * MiB, bitmaps: [uncounted] });
    expect(imageNeeded({ source: disk, copyBitmap: 'b' })).toBeLessThan(30 * MiB);
  });

  it('has little for metadata: at most a ten-thousandth of the disk and half a MiB', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 20_000 }), fc.boolean(), (size, whole) => {
        const virtualSize = size * GiB;
        const disk = source('a', {
          virtualSize,
          allocated: virtualSize,
          bitmaps: [bitmap('b', { count: virtualSize })],
        });
        const metadata = imageNeeded({ source: disk, copyBitmap: whole ? null : 'b' }) - virtualSize;
        expect(metadata).toBeGreaterThan(0);
        expect(metadata).toBeLessThan(virtualSize / 5_000 + MiB / 2);
      }),
    );
  });

  it('is summed over the disks, each at its own level', () => {
    const full = entry('a', 'FULL-1.qcow2');
    const tracked = source('a', { allocated: 40 * MiB, bitmaps: [bitmap(full.bitmap!.name, { count: 2 * MiB })] });
    const { disks } = planBackup(
      planInput('auto', [tracked, source('b', { allocated: 8 * MiB })], catalog([point(0, [full])])),
    );
    expect(disks.map(({ level }) => level)).toEqual(['inc', 'full']);
    expect(spaceNeeded(disks)).toBe(disks.reduce((sum, disk) => sum + imageNeeded(disk), 0));
    expect(spaceNeeded(disks)).toBeGreaterThan(10 * MiB);
    expect(spaceNeeded(disks)).toBeLessThan(12 * MiB);
  });
});

it('the reserve is 256 MiB, or 1 % of a large file system', () => {
  expect(defaultReserve({ total: 10 * GiB })).toBe(256 * MiB);
  expect(defaultReserve({ total: 1000 * GiB })).toBe(10 * GiB);
});

describe('the decision', () => {
  const where = '/backup';
  it('lets the last byte above the reserve be used', () => {
    expect(tooLittleSpace({ need: 100, free: 150, reserve: 50 }, { where, force: false })).toBeUndefined();
  });

  it('refuses one byte more, with the numbers and what to do', () => {
    const [need, free, reserve] = [100 * MiB + 1, 150 * MiB, 50 * MiB];
    const error = refusal(() => tooLittleSpace({ need, free, reserve }, { where, force: false }));
    expect(error.code).toBe('unsafe');
    expect(error.message).toBe(
      'there is too little space on /backup: the backup can need 100 MiB, 150 MiB are free and 50.0 MiB of them stay in reserve',
    );
    expect(error.hint).toMatch(/Free 1 B there.*--reserve.*--force/);
  });

  it('warns and goes on with --force, but not where the guest would run into a full target', () => {
    const more = { where, force: true };
    expect(tooLittleSpace({ need: 100 * MiB, free: 20 * MiB, reserve: 50 * MiB }, more)).toMatch(/because of --force/);
    const hopeless = { need: 100 * MiB, free: LEAST_FLOOR, reserve: 50 * MiB };
    const error = refusal(() => tooLittleSpace(hopeless, more));
    expect(error).toMatchObject({ code: 'unsafe' });
    expect(error.hint).toContain('--force does not help');
  });
});

describe('while the jobs run', () => {
  it('the floor is the reserve, and less only where --force began below it', () => {
    expect(floorOf({ free: 51 * MiB, reserve: 50 * MiB })).toBe(50 * MiB);
    expect(floorOf({ free: 50 * MiB, reserve: 50 * MiB })).toBe(LEAST_FLOOR);
    expect(floorOf({ free: MiB, reserve: 4 * MiB })).toBe(4 * MiB);
  });

  it('space runs out below the floor, and where a tight run may use it up before the next look', () => {
    expect(runningOut({ free: 50, before: 60, floor: 50, tight: true })).toBe(false);
    expect(runningOut({ free: 49, before: 60, floor: 50, tight: true })).toBe(true);
    expect(runningOut({ free: 100, before: 190, floor: 50, tight: true })).toBe(false);
    expect(runningOut({ free: 100, before: 210, floor: 50, tight: true })).toBe(true);
    expect(runningOut({ free: 100, before: 210, floor: 50, tight: false })).toBe(false);
  });
});

function refusal(body: () => unknown): QmpBackupError {
  try {
    body();
  } catch (error) {
    return error as QmpBackupError;
  }
  throw new Error('it was not refused');
}
