import { describe, expect, it } from 'vitest';
import type { BackupOptions } from '../../../../../src/backends/backup-options.js';
import { PUSH } from '../../../../../src/backends/libvirt/methods/push.js';

const options = (more: Partial<BackupOptions> = {}): BackupOptions =>
  ({ fleece: 'auto', fleeceDir: null, verify: null, compress: false, ...more }) as BackupOptions;

describe('what a push cannot keep', () => {
  it.each([
    ['--verify', { verify: 'sample' }],
    ['--compress', { compress: true }],
    ['--fleece always', { fleece: 'always' }],
    ['--fleece-dir', { fleeceDir: '/var/tmp' }],
  ] as const)('%s is refused as bad usage, with the reason', (option, more) => {
    expect(() => PUSH.refuse(options(more))).toThrow(
      expect.objectContaining({
        code: 'usage',
        message: expect.stringMatching(new RegExp(`^${option} is not possible with --method push: \\w`)) as unknown,
      }),
    );
  });

  it('warns of a target that may hang, for the guest waits for it', () => {
    expect(PUSH.riskOf({ network: true, spaceIsShort: false })).toContain('--method pull');
    expect(PUSH.riskOf({ network: false, spaceIsShort: true })).toBeNull();
  });

  it('the rest passes, --fleece never too', () => {
    expect(() => PUSH.refuse(options({ fleece: 'never' }))).not.toThrow();
  });
});
