import { describe, expect, it } from 'vitest';
import { addsUp } from '../../../src/core/uneven-layers.js';

const layer = (virtualSize: number, ...bitmaps: string[]) => ({ virtualSize, bitmaps });

describe('the parts of a bitmap in the layers of a disk', () => {
  it.each([
    ['there is one layer', [], true],
    ['all layers have the size of the disk', [layer(80, 'k'), layer(80, 'k')], true],
    ['one below is smaller and has no part', [layer(80, 'k'), layer(64, 'other')], true],
    ['one below is smaller and has a part', [layer(80, 'k'), layer(64, 'other', 'k')], false],
    ['one could not be looked at', [layer(80, 'k'), null], false],
  ])('%s: whether they surely add up', (_, below, expected) => {
    expect(addsUp('k', 80, below)).toBe(expected);
  });
});
