import { describe, expect, it } from 'vitest';
import { refuseContradiction, requireVm, VM_OPTIONS, vmOf } from '../../../src/backends/vm-options.js';
import { type RequestOf, valuesOf } from '../../../src/core/option-rules.js';

const usage = expect.objectContaining({ code: 'usage' }) as Error;

const named = (given: RequestOf<typeof VM_OPTIONS>): ReturnType<typeof vmOf> => vmOf(valuesOf(VM_OPTIONS, given));

describe('which VM the options name', () => {
  it('is that of --socket or of --domain, or none', () => {
    expect(named({})).toBeNull();
    expect(named({ socket: '/run/vm.qmp' })).toMatchObject({ kind: 'monitor', monitor: { path: '/run/vm.qmp' } });
    expect(named({ domain: 'web' })).toEqual({ kind: 'domain', domain: 'web', connect: null });
    expect(named({ domain: 'web', connect: 'qemu:///session' })).toMatchObject({ connect: 'qemu:///session' });
    expect(() => requireVm(valuesOf(VM_OPTIONS, {}))).toThrow(usage);
  });

  it('is refused where it is not clear', () => {
    expect(() => named({ connect: 'qemu:///system' })).toThrow(usage);
    expect(() => refuseContradiction({ domain: 'web', socket: '/run/x' })).toThrow(usage);
    expect(() => refuseContradiction({ domain: 'web', agentSocket: '/run/x' })).toThrow(usage);
    expect(() => refuseContradiction({ domain: ' ' })).toThrow(usage);
    expect(() => refuseContradiction({ socket: '/run/x', agentSocket: '/run/y' })).not.toThrow();
  });
});
