import { describe, expect, it } from 'vitest';
import { exitCodeOf } from '../../../src/cli/exit-codes.js';
import { diskFolderOf, parseBytes, parseImages, parseList, parseSeconds } from '../../../src/cli/options.js';
import { type ErrorCode, QmpBackupError } from '../../../src/errors.js';

describe('images', () => {
  it('are named, with a format where that is said, and each once', () => {
    const one = parseImages('disk1=/a=b.qcow2');
    expect(one).toEqual([{ name: 'disk1', path: '/a=b.qcow2', format: null }]);
    expect(parseImages('d2=raw:/dev/vg/d2', one)[1]).toEqual({ name: 'd2', path: '/dev/vg/d2', format: 'raw' });
    expect(() => parseImages('disk1=/other', one)).toThrow('given before');
    expect(() => parseImages('other=/a=b.qcow2', one)).toThrow('given before');
  });

  it.each(['/a.qcow2', 'disk1=', '=/a', '../x=/a'])('refuses %j', (text) => {
    expect(() => parseImages(text)).toThrow();
  });
});

describe('bytes', () => {
  it.each([
    ['0', 0],
    ['1048576', 1048576],
    ['512K', 524288],
    ['20M', 20971520],
    ['20m', 20971520],
    ['1.5G', 1610612736],
    ['2GiB', 2147483648],
    ['100B', 100],
  ])('%s', (text, bytes) => expect(parseBytes(text)).toBe(bytes));

  it.each(['', 'fast', '-1', '20X', '20 M B', '1e3', 'NaN'])('refuses %j', (text) => {
    expect(() => parseBytes(text)).toThrow('give bytes');
  });
});

describe('seconds', () => {
  it.each([
    ['10', 10_000],
    ['0.5', 500],
  ])('%s', (text, ms) => expect(parseSeconds(text)).toBe(ms));

  it.each(['', '0', '-3', 'soon', 'Infinity', '86401'])('refuses %j', (text) => {
    expect(() => parseSeconds(text)).toThrow('greater than 0');
  });
});

it('a list is split at commas, and the option may be repeated', () => {
  expect(parseList('b, c,,', parseList('a'))).toEqual(['a', 'b', 'c']);
});

it.each<[ErrorCode, number]>([
  ['failed', 1],
  ['usage', 2],
  ['partial', 3],
  ['damaged', 4],
  ['warnings', 5],
  ['no-catalog', 10],
  ['locked', 11],
  ['unreachable', 12],
  ['unsafe', 13],
])('%s ends with %i', (code, exitCode) => {
  expect(exitCodeOf(new QmpBackupError(code, ''), undefined)).toBe(exitCode);
});

it('a signal decides, whatever failed because of it; an error of unknown make is a failure', () => {
  expect(exitCodeOf(new QmpBackupError('failed', ''), 'SIGINT')).toBe(130);
  expect(exitCodeOf(new QmpBackupError('failed', ''), 'SIGTERM')).toBe(143);
  expect(exitCodeOf(new Error('?'), undefined)).toBe(1);
});

describe('one disk of a target', () => {
  it('is named as other commands name a target, or by its folder', () => {
    expect(diskFolderOf({ target: '/b/vm', disk: 'disk1' })).toBe('/b/vm/disk1');
    expect(diskFolderOf({ dir: '/b/vm/disk1' })).toBe('/b/vm/disk1');
  });

  it.each([{}, { target: '/b' }, { disk: 'a' }, { dir: '/b/a', disk: 'a' }, { dir: '/b/a', target: '/b' }])(
    'is not named by %o',
    (flags) => {
      expect(() => diskFolderOf(flags)).toThrow('not named, or twice');
    },
  );

  it('is no path', () => {
    expect(() => diskFolderOf({ target: '/b', disk: '../x' })).toThrow('--disk ../x is no disk id');
  });
});
