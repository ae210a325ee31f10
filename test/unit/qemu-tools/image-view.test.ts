import { describe, expect, it } from 'vitest';
import { MAX_VIEW_FILES, viewOf } from '../../../src/qemu-tools/image-view.js';

describe('viewOf', () => {
  it('names every file, the last one outermost, and ends with no backing file', () => {
    expect(viewOf(['FULL-1.qcow2', 'INC "2:3".qcow2'])).toBe(
      'json:{"driver":"qcow2","file":{"driver":"file","filename":"INC \\"2:3\\".qcow2"},"backing":' +
        '{"driver":"qcow2","file":{"driver":"file","filename":"FULL-1.qcow2"},"backing":null}}',
    );
  });

  it('refuses what QEMU or the kernel would not take', () => {
    const files = Array.from({ length: MAX_VIEW_FILES + 1 }, (_, index) => `INC-${1480542000 + index}.qcow2`);
    expect(() => viewOf(files)).toThrow(/too long/);
    expect(viewOf(files.slice(1)).length).toBeLessThan(131_072);
    const long = files.slice(1).map((file) => file + 'x'.repeat(150));
    expect(() => viewOf(long)).toThrow(/too long/);
  });
});
