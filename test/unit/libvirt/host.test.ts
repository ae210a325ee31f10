import { hostname } from 'node:os';
import { describe, expect, it } from 'vitest';
import { VirshError } from '../../../src/libvirt/errors.js';
import { hostOf, isPlainlyLocal, isSameHost, requireThisHost } from '../../../src/libvirt/host.js';
import type { Virsh } from '../../../src/libvirt/virsh.js';

/** A libvirt that calls its host so, and says this of a file that it is asked for. */
function libvirt(uri: string, name: string, ofFile = 'it says nothing of files'): Virsh {
  return (command) => {
    if (command === 'uri') return Promise.resolve(`${uri}\n`);
    if (command === 'hostname') return Promise.resolve(`${name}\n`);
    return Promise.reject(new VirshError(command, ofFile));
  };
}

const SEEN = 'QEMU binary /var/tmp/x is not executable: Permission denied';
const MISSING = 'Cannot check QEMU binary /var/tmp/x: No such file or directory';

describe('the host of a libvirt', () => {
  it('is another one by its name, whichever URI leads to it', async () => {
    for (const uri of ['qemu:///system', 'qemu:///session', 'qemu+unix:///system?socket=/x', 'qemu+ssh://h/system']) {
      const host = await hostOf(libvirt(uri, 'far.example', SEEN));
      expect(host).toMatchObject({ uri, elsewhere: expect.stringContaining('far.example') as string });
      expect(() => requireThisHost(host, 'why')).toThrow(expect.objectContaining({ code: 'unsafe' }) as Error);
    }
  });

  it('is this one where it has its name, and where that is not plain sees a file that was just made here', async () => {
    const here = hostname();
    for (const uri of ['qemu:///system', 'qemu+ssh://localhost/system', 'qemu+unix:///system?socket=/x']) {
      expect(await hostOf(libvirt(uri, here, SEEN))).toEqual({ uri, elsewhere: null });
      expect(await hostOf(libvirt(uri, here))).toEqual({ uri, elsewhere: null });
    }
    expect((await hostOf(libvirt('qemu+ssh://clone/system', here, MISSING))).elsewhere).toContain('does not see');
    expect((await hostOf(libvirt('qemu+unix:///system?socket=/x', here, MISSING))).elsewhere).toContain('does not see');
  });

  it('may be called with its domain or without', () => {
    expect(isSameHost('web.example.org', 'web')).toBe(true);
    expect(isSameHost('Web', 'web.example.org')).toBe(true);
    expect(isSameHost('web.example.org', 'web.example.com')).toBe(false);
    expect(isSameHost('web2', 'web')).toBe(false);
    expect(isPlainlyLocal('qemu+unix:///session')).toBe(true);
    expect(isPlainlyLocal('qemu+tcp:///system')).toBe(false);
    expect(isPlainlyLocal('qemu+ssh:///system')).toBe(false);
  });

  it('has a driver for QEMU, or is refused', async () => {
    await expect(hostOf(libvirt('lxc:///system', hostname()))).rejects.toMatchObject({ code: 'unsafe' });
  });
});
