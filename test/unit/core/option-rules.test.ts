import { describe, expect, it } from 'vitest';
import {
  bytes,
  choice,
  filesByDisk,
  names,
  type OptionRules,
  requiredWord,
  seconds,
  valuesOf,
  word,
  yesOr,
  yesOrNo,
} from '../../../src/core/option-rules.js';

describe('files by disk', () => {
  const { read } = filesByDisk('--offline');

  it('are named, each disk once', () => {
    const one = read('disk1=/a=b.qcow2');
    expect(one).toEqual({ disk1: '/a=b.qcow2' });
    expect(read('d2=raw:/dev/vg/d2', one)).toEqual({ disk1: '/a=b.qcow2', d2: 'raw:/dev/vg/d2' });
    expect(() => read('disk1=/other', one)).toThrow('given before');
    expect(read({ disk1: '/a' })).toEqual({ disk1: '/a' });
    expect(() => read({ disk1: '' })).toThrow('give a file for disk1');
    expect(() => read({ '../x': '/a' })).toThrow('is no disk id');
  });

  it.each(['/a.qcow2', 'disk1=', '=/a', '../x=/a'])('refuses %j', (text) => {
    expect(() => read(text)).toThrow();
  });
});

describe('bytes', () => {
  const { read } = bytes('--rate', 0);
  it.each([
    ['0', 0],
    ['1048576', 1048576],
    ['512K', 524288],
    ['20M', 20971520],
    ['20m', 20971520],
    ['1.5G', 1610612736],
    ['2GiB', 2147483648],
    ['100B', 100],
    [4096, 4096],
  ])('%s', (given, value) => expect(read(given)).toBe(value));

  it.each(['', 'fast', '-1', '20X', '20 M B', '1e3', 'NaN', -1, NaN, Infinity])('refuses %j', (given) => {
    expect(() => read(given)).toThrow('give bytes');
  });
});

describe('seconds', () => {
  const { read } = seconds('--time', 1);
  it.each([
    ['10', 10],
    ['0.5', 0.5],
    [86_400, 86_400],
  ])('%s', (given, value) => expect(read(given)).toBe(value));

  it.each(['', '0', '-3', 'soon', 'Infinity', '86401', 0, NaN])('refuses %j', (given) => {
    expect(() => read(given)).toThrow('greater than 0');
  });
});

it('a list is split at commas, and the option may be repeated; an array is taken as it is', () => {
  const { read } = names('--include');
  expect(read('b, c,,', read('a'))).toEqual(['a', 'b', 'c']);
  expect(read(['a,b', 'c'])).toEqual(['a,b', 'c']);
  for (const none of [',', [], ['']]) expect(() => read(none)).toThrow('at least one name');
});

describe('a request', () => {
  const rules = {
    target: requiredWord('--target'),
    level: choice('--level', ['full', 'auto'], 'auto'),
    verify: yesOr('--verify', 'sample'),
    digest: yesOrNo('--no-digest', true),
    label: word('--vm-name'),
    wait: seconds('--wait', 60),
  } satisfies OptionRules;

  it('gets the default of what it leaves out', () => {
    const defaults = { level: 'auto', verify: false, digest: true, label: null, wait: 60 };
    expect(valuesOf(rules, { target: '/b' })).toEqual({ target: '/b', ...defaults });
    expect(valuesOf(rules, { target: '/b', level: null, label: undefined })).toMatchObject(defaults);
    expect(valuesOf(rules, { target: '/b', verify: 'sample', digest: false })).toMatchObject({
      verify: 'sample',
      digest: false,
    });
  });

  it.each<[object, string]>([
    [{}, 'the required option --target was not given'],
    [{ target: '' }, '--target has an empty value'],
    [{ target: ['/b'] }, '--target: give one text'],
    [{ target: '/b\0' }, '--target: it has a NUL'],
    [{ target: '/b', level: 'half' }, '--level: "half" is not one of full, auto'],
    [{ target: '/b', verify: 'all' }, '--verify=all is not known'],
    [{ target: '/b', digest: 'no' }, '--no-digest: say true or false'],
    [{ target: '/b', wait: 0 }, '--wait: give a number of seconds'],
    [{ target: '/b', waits: 1 }, 'there is no option waits'],
  ])('%o is refused', (request, words) => {
    const usage = expect.objectContaining({
      code: 'usage',
      message: expect.stringContaining(words) as string,
    }) as Error;
    expect(() => valuesOf(rules, request as { target: string })).toThrow(usage);
  });
});
