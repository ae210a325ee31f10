import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createProgressReader } from '../../../src/qemu-tools/progress-line.js';

describe('createProgressReader', () => {
  it('reads percent after percent, however the text is cut', () => {
    const percents = fc.array(fc.integer({ min: 0, max: 10_000 }), { minLength: 1, maxLength: 30 });
    fc.assert(
      fc.property(percents, fc.array(fc.nat(20), { minLength: 1 }), (values, cuts) => {
        const text = values.map((each) => `    (${(each / 100).toFixed(2)}/100%)\r`).join('');
        const reader = createProgressReader();
        const seen: number[] = [];
        for (let at = 0, index = 0; at < text.length; index += 1) {
          const end = at + 1 + (cuts[index % cuts.length] ?? 0);
          const percent = reader(text.slice(at, end));
          if (percent !== undefined) seen.push(percent);
          at = end;
        }
        expect(seen.at(-1)).toBe((values.at(-1) ?? 0) / 100);
        expect(values.map((each) => each / 100)).toEqual(expect.arrayContaining(seen));
      }),
    );
  });

  it('says nothing for other output, and never keeps much of it', () => {
    const reader = createProgressReader();
    expect(reader('Image committed.\n')).toBeUndefined();
    expect(reader('('.repeat(100_000))).toBeUndefined();
    expect(reader('(1.00/100%)(100.00/100%)\n')).toBe(100);
  });
});
