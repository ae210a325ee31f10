import { describe, expect, it } from 'vitest';
import { type RequestOf, valuesOf } from '../../../src/core/option-rules.js';
import { DISK_FOLDER_OPTIONS, diskFolderOf } from '../../../src/repository/disk-folder.js';

const folder = (given: RequestOf<typeof DISK_FOLDER_OPTIONS>): string =>
  diskFolderOf(valuesOf(DISK_FOLDER_OPTIONS, given));

describe('one disk of a target', () => {
  it('is named as other commands name a target, or by its folder', () => {
    expect(folder({ target: '/b/vm', disk: 'disk1' })).toBe('/b/vm/disk1');
    expect(folder({ dir: '/b/vm/disk1' })).toBe('/b/vm/disk1');
  });

  it.each([{}, { target: '/b' }, { disk: 'a' }, { dir: '/b/a', disk: 'a' }, { dir: '/b/a', target: '/b' }])(
    'is not named by %o',
    (flags) => {
      expect(() => folder(flags)).toThrow('not named, or twice');
    },
  );

  it('is no path', () => {
    expect(() => folder({ target: '/b', disk: '../x' })).toThrow('--disk ../x is no disk id');
  });
});
