import { describe, expect, it } from 'vitest';
import { askAgent, countRows, parseVersion } from '../../../src/libvirt/connection.js';
import { VirshError } from '../../../src/libvirt/errors.js';
import type { Virsh } from '../../../src/libvirt/virsh.js';

const answers =
  (said: Readonly<Record<string, string>>): Virsh =>
  (command) =>
    Promise.resolve(said[command] ?? '');

const VERSION = `Compiled against library: libvirt 9.0.0
Using library: libvirt 9.0.0
Using API: QEMU 9.0.0
Running hypervisor: QEMU 7.2.22
`;

describe('the libvirt that answers', () => {
  it('has a version, also where no QEMU was found', () => {
    expect(parseVersion(VERSION)).toBe('libvirt 9.0.0 with QEMU 7.2.22');
    expect(parseVersion('Using library: libvirt 9.0.0\nCannot extract running QEMU hypervisor version\n')).toBe(
      'libvirt 9.0.0',
    );
    expect(() => parseVersion('?')).toThrow(/could not be understood/);
  });
});

describe('the agent', () => {
  const table = ` Mountpoint   Name   Type   Target
------------------------------------
 /            vda1   ext4   vda
 /data        vdb    xfs    vdb

`;

  it('tells its file systems, and when it is frozen', async () => {
    expect(countRows(table)).toBe(2);
    expect(countRows('No filesystems are mounted in the domain\n')).toBe(0);
    await expect(askAgent(answers({ domfsinfo: table }), 'u', { timeoutMs: 1 })).resolves.toEqual({ fileSystems: 2 });
    const words = 'Command guest-get-fsinfo has been disabled: the agent is in frozen state';
    const frozen: Virsh = () => Promise.reject(new VirshError('domfsinfo', words));
    await expect(askAgent(frozen, 'u', { timeoutMs: 1 })).resolves.toBe('frozen');
  });
});
