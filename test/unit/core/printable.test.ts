import fc from 'fast-check';
import { expect, it } from 'vitest';
import { printable, printableJson, printableLines } from '../../../src/core/printable.js';

const HOSTILE = 'a\x1b[2Jb\rc\u009bd\u202ee\u2028f\x7fg\nh';

it('shows what moves, ends or turns round a line as ?, and all else as it is', () => {
  expect(printable(HOSTILE)).toBe('a?[2Jb?c?d?e?f?g?h');
  expect(printableLines(HOSTILE)).toBe('a?[2Jb?c?d?e?f?g\nh');
  expect(printable('Größe – 日本 😀')).toBe('Größe – 日本 😀');
});

it('is JSON of the same value that a terminal shows as it is', () => {
  fc.assert(
    fc.property(fc.jsonValue(), fc.string({ unit: 'binary' }), (value, text) => {
      const given = { value, text, hostile: `${HOSTILE}\u{e0001}` };
      const json = printableJson(given, 2);
      expect(JSON.parse(json)).toEqual(JSON.parse(JSON.stringify(given)));
      expect(printableLines(json)).toBe(json);
    }),
  );
});
