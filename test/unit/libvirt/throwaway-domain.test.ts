import { expect, it } from 'vitest';
import { throwawayDomain } from '../../../src/libvirt/throwaway-domain.js';

const THROWAWAY = {
  uuid: '11111111-2222-8333-a444-555555555555',
  description: 'whose it is',
  disks: new Set(['vda']),
  serialSocket: '/t/serial.sock',
  agent: false,
};

function domain(devices: string, more = ''): string {
  return `<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>trial</name>
  <uuid>99999999-2222-3333-4444-555555555555</uuid>
  ${more}
  <devices>
    ${devices}
  </devices>
</domain>`;
}

/** Without the blanks between elements. */
function edited(devices: string, more?: string, throwaway: Partial<typeof THROWAWAY> = {}): string {
  return throwawayDomain(domain(devices, more), { ...THROWAWAY, ...throwaway }).xml.replace(/>\s+</g, '><');
}

it('takes out all that is the host’s or for people, and keeps the rest as it is', () => {
  const gone = [
    `<hostdev mode='subsystem' type='usb'/>`,
    `<filesystem type='mount'><source dir='/srv'/><target dir='srv'/></filesystem>`,
    `<graphics type='spice' port='5901' autoport='no'/>`,
    `<redirdev bus='usb' type='spicevmc'/>`,
    `<shmem name='shared'/>`,
    `<vsock model='virtio'><cid auto='no' address='3'/></vsock>`,
    `<memory model='nvdimm'><source><path>/pmem</path></source></memory>`,
    `<input type='evdev'><source dev='/dev/input/event1'/></input>`,
    `<tpm model='tpm-tis'><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>`,
    `<rng model='virtio'><backend model='egd' type='tcp'/></rng>`,
    `<interface type='hostdev'><mac address='52:54:00:00:00:01'/></interface>`,
    `<channel type='spicevmc'><target type='guestfwd' address='10.0.0.1' port='80'/></channel>`,
    `<console type='pty'><target type='serial' port='0'/></console>`,
  ];
  const stays = [
    `<emulator>/usr/bin/qemu-system-x86_64</emulator>`,
    `<controller type='pci' index='0' model='pcie-root'/>`,
    `<input type='tablet' bus='usb'/>`,
    `<memory model='dimm'><target><size unit='MiB'>64</size></target></memory>`,
    `<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>`,
  ];
  const more = `<description>the shop</description><cputune><vcpupin vcpu='0' cpuset='1'/></cputune>
  <vcpu cpuset='0-1'>2</vcpu><memoryBacking><hugepages/></memoryBacking><on_crash>coredump-destroy</on_crash>
  <sysinfo type='smbios'><system><entry name='uuid'>99999999</entry><entry name='serial'>7</entry></system></sysinfo>
  <seclabel type='none'/><qemu:commandline><qemu:arg value='-netdev'/></qemu:commandline>`;
  const xml = edited([...gone, ...stays].join('\n'), more);
  const serial = `<serial type='unix'><source mode='connect' path='/t/serial.sock'/></serial>`;
  expect(/<devices>(.*)<\/devices>/.exec(xml)?.[1]).toBe(stays.join('') + serial);
  expect(xml.replace(/<devices>.*<\/devices>/, '')).toBe(
    `<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>trial</name><uuid>${THROWAWAY.uuid}</uuid>` +
      `<vcpu>2</vcpu><sysinfo type='smbios'><system><entry name='uuid'>${THROWAWAY.uuid}</entry><entry name='serial'>7</entry></system></sysinfo>` +
      `<description>whose it is</description><on_poweroff>destroy</on_poweroff><on_crash>preserve</on_crash></domain>\n`,
  );
});

it('cuts cards and ports off, and hears the first serial port', () => {
  const address = `<address type='pci' slot='0x03'/>`;
  const xml = edited(
    `<interface type='bridge' trustGuestRxFilters='yes'><mac address='52:54:00:00:00:01'/><source bridge='br0'/>
      <model type='virtio'/><driver queues='4'/><link state='up'/>${address}</interface>
    <serial type='file'><source path='/var/log/guest'/><target port='0'/></serial>
    <serial type='tcp'><source mode='bind' host='0.0.0.0' service='4000'/><target port='1'/></serial>
    <channel type='unix'><source mode='bind' path='/run/agent'/><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>
    <channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>
    <video><model type='virtio'><acceleration accel3d='yes'/></model></video>
    <audio id='1' type='spice'/>
    <watchdog model='i6300esb' action='dump'/>`,
  );
  expect(/<devices>(.*)<\/devices>/.exec(xml)?.[1]).toBe(
    [
      `<interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/>${address}<link state='down'/></interface>`,
      `<serial type='unix'><target port='0'/><source mode='connect' path='/t/serial.sock'/></serial>`,
      `<serial type='null'><target port='1'/></serial>`,
      `<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>`,
      `<channel type='null'><target type='virtio' name='com.redhat.spice.0'/></channel>`,
      `<video><model type='virtio'></model></video>`,
      `<audio id='1' type='none'/>`,
      `<watchdog model='i6300esb' action='none'/>`,
    ]
      .join('')
      .replace('></model>', '/>'),
  );
});

it('writes to the disks of the point without care for them, and leaves media as they are', () => {
  const medium = `<disk type='file' device='cdrom'><driver name='qemu' type='raw' cache='none'/><target dev='sda'/></disk>`;
  const xml = edited(
    `<disk type='file' device='lun' rawio='yes' sgio='unfiltered'><driver name='qemu' type='qcow2' cache='none' io='native' discard='unmap'/>
      <target dev='vda'/><iotune/><shareable/><serial>7</serial></disk>${medium}`,
  );
  expect(xml).toContain(
    `<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='unsafe' discard='unmap'/><target dev='vda'/><serial>7</serial></disk>${medium}`,
  );
});

it('tells whether an agent can answer, and gives it a channel where that is asked for', () => {
  expect(throwawayDomain(domain(''), THROWAWAY)).toMatchObject({ hasAgent: false, type: 'kvm' });
  const given = throwawayDomain(domain(`<emulator>/q</emulator>`), { ...THROWAWAY, agent: true });
  expect(given.hasAgent).toBe(true);
  expect(given.xml).toContain(`<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>`);
});
