import { expect, it } from 'vitest';
import { asShellWord } from '../../../src/core/shell-word.js';

it.each([
  ['web-1.example', 'web-1.example'],
  ['web one', "'web one'"],
  ["it's", `'it'\\''s'`],
  ['', "''"],
])('%s is typed %s', (name, word) => expect(asShellWord(name)).toBe(word));
