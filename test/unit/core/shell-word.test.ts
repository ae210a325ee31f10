import { expect, it } from 'vitest';
import { asShellWord, fromShellWord } from '../../../src/core/shell-word.js';

it.each([
  ['web-1.example', 'web-1.example'],
  ['web one', "'web one'"],
  ["it's", `'it'\\''s'`],
  ['', "''"],
])('%s is typed %s', (name, word) => expect(asShellWord(name)).toBe(word));

it.each([
  ['/a/b', '/a/b'],
  ['/my\\ backups/web\\ 1', '/my backups/web 1'],
  ["'/my backups'", '/my backups'],
  [`--target="/a \\"b\\" \\$c"`, '--target=/a "b" $c'],
  [`"a\\b"`, 'a\\b'],
  ["'/it'\\''s'", "/it's"],
  ["'/still open", '/still open'],
  ['"/still open \\"', '/still open "'],
  ['$(rm x)', '$(rm x)'],
])('typed, %s is %s', (typed, word) => expect(fromShellWord(typed)).toBe(word));
