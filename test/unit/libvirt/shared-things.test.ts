import { describe, expect, it } from 'vitest';
import { sharedThings } from '../../../src/libvirt/shared-things.js';
import { parseXml } from '../../../src/libvirt/xml.js';

const shared = (devices: string, more = ''): readonly string[] =>
  sharedThings(parseXml(`<domain type='qemu'><devices>${devices}</devices>${more}</domain>`, 'domain'));

describe('what a second domain of the same definition would share', () => {
  it.each<[string, string, readonly string[]]>([
    [
      'a fixed port',
      `<graphics type='vnc' port='5901' autoport='no' websocket='5701'/>`,
      ['port 5901 (vnc)', 'port 5701 (vnc)'],
    ],
    ['two of them', `<graphics type='spice' port='5902' tlsPort='5903'/>`, ['port 5902 (spice)', 'port 5903 (spice)']],
    ['no port of its own', `<graphics type='vnc' port='-1' autoport='yes'><listen type='address'/></graphics>`, []],
    ['a display socket', `<graphics type='vnc'><listen type='socket' socket='/run/v'/></graphics>`, ['/run/v']],
    [
      'serial over TCP',
      `<serial type='tcp'><source mode='bind' host='0' service='4555'/></serial><console type='tcp'><source mode='bind' host='0' service='4555'/></console>`,
      ['port 4555 (serial)', 'port 4555 (console)'],
    ],
    [
      'a channel over UDP',
      `<channel type='udp'><source mode='bind' service='7'/><source mode='connect' service='9'/></channel>`,
      ['port 7 (channel)'],
    ],
    ['a client', `<serial type='tcp'><source mode='connect' host='log' service='1'/></serial>`, []],
    [
      'a serial file, once',
      `<serial type='file'><source path='/l'/></serial><console type='file'><source path='/l'/></console>`,
      ['/l'],
    ],
    ['a log', `<serial type='pty'><log file='/var/log/s' append='on'/></serial>`, ['/var/log/s']],
    ['a bound socket', `<channel type='unix'><source mode='bind' path='/run/c'/></channel>`, ['/run/c']],
    ['a fixed CID', `<vsock model='virtio'><cid auto='no' address='3'/></vsock>`, ['the vsock CID 3']],
    ['a drawn CID', `<vsock model='virtio'><cid auto='yes' address='3'/></vsock>`, []],
    ['an NVDIMM', `<memory model='nvdimm'><source><path>/pm</path></source></memory>`, ['/pm']],
    ['a share', `<filesystem type='mount'><source dir='/srv'/><target dir='s'/></filesystem>`, ['/srv']],
    ['shared memory', `<shmem name='m'/>`, ['the shared memory m']],
    [
      'a tap',
      `<interface type='network'><source network='n'/><target dev='tap7'/></interface>`,
      ['the network interface tap7'],
    ],
    [
      'forwarded ports',
      `<interface type='user'><portForward proto='tcp'><range start='2222' to='22'/><range start='80' end='90'/><range start='85' exclude='yes'/></portForward></interface>`,
      ['port 2222 (tcp, forwarded)', 'ports 80-90 (tcp, forwarded)'],
    ],
    [
      'devices of the host',
      `<hostdev mode='subsystem' type='usb'/><interface type='hostdev'/>`,
      ['2 devices of the host'],
    ],
    ['an input device', `<input type='evdev'><source dev='/dev/input/event1'/></input>`, ['/dev/input/event1']],
    [
      'the TPM of the host',
      `<tpm><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>`,
      ['/dev/tpm0'],
    ],
    ['disks, which are its own', `<disk type='file'><source file='/d'/></disk>`, []],
  ])('%s', (_, devices, expected) => expect(shared(devices)).toEqual(expected));

  it('arguments of its own for QEMU', () => {
    const line = `<qemu:commandline><qemu:arg value='-redir'/><qemu:arg value='tcp:22::22'/></qemu:commandline>`;
    expect(shared('', line)).toEqual(['what QEMU is given by arguments of its own (-redir tcp:22::22)']);
  });
});
