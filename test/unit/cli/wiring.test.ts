import { describe, expect, it } from 'vitest';
import { refuseContradiction, requireVm, vmOf } from '../../../src/cli/wiring.js';

const usage = expect.objectContaining({ code: 'usage' }) as Error;

describe('which VM the global options name', () => {
  it('is that of --socket or of --domain, or none', () => {
    expect(vmOf({})).toBeNull();
    expect(vmOf({ socket: '/run/vm.qmp' })).toMatchObject({ kind: 'monitor', monitor: { path: '/run/vm.qmp' } });
    expect(vmOf({ domain: 'web' })).toEqual({ kind: 'domain', domain: 'web', connect: null });
    expect(vmOf({ domain: 'web', connect: 'qemu:///session' })).toMatchObject({ connect: 'qemu:///session' });
    expect(() => requireVm({})).toThrow(usage);
  });

  it('is refused where it is not clear', () => {
    expect(() => vmOf({ connect: 'qemu:///system' })).toThrow(usage);
    expect(() => refuseContradiction({ domain: 'web', socket: '/run/x' })).toThrow(usage);
    expect(() => refuseContradiction({ domain: 'web', agentSocket: '/run/x' })).toThrow(usage);
    expect(() => refuseContradiction({ domain: ' ' })).toThrow(usage);
    expect(() => refuseContradiction({ socket: '/run/x', agentSocket: '/run/y' })).not.toThrow();
  });
});
