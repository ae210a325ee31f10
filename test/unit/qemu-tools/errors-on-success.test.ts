import { describe, expect, it } from 'vitest';
import { untoldErrors } from '../../../src/qemu-tools/errors-on-success.js';

describe('untoldErrors', () => {
  it('are the lines of qemu-img and qemu-io that are no warnings', () => {
    const flush = 'qemu-img: Failed to flush the L2 table cache: No space left on device';
    expect(untoldErrors(`${flush}\nqemu-io: Failed to flush\n`)).toBe(`${flush}\nqemu-io: Failed to flush`);
    expect(untoldErrors('')).toBeNull();
    expect(untoldErrors('qemu-img: warning: a default that changes\n')).toBeNull();
  });

  it('are not what others say', () => {
    const linker = "ERROR: ld.so: object 'x.so' from LD_PRELOAD cannot be preloaded (cannot open shared object file)";
    expect(untoldErrors(`${linker}: ignored.\n`)).toBeNull();
  });
});
