import { describe, expect, it } from 'vitest';
import { smallestVhd } from '../../../src/core/smallest-vhd.js';

describe('the smallest VHD', () => {
  it('is a sector and a footer, whose checksum counts every other byte of it', () => {
    const image = smallestVhd();
    expect(image).toHaveLength(1024);
    const footer = image.subarray(512);
    expect(new TextDecoder().decode(footer.subarray(0, 8))).toBe('conectix');
    const checksum = new DataView(image.buffer, 512).getUint32(64);
    const sum = footer.reduce((total, byte, at) => total + (at >= 64 && at < 68 ? 0 : byte), 0);
    expect(checksum).toBe(~sum >>> 0);
  });
});
