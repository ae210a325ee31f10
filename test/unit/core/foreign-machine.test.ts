import { describe, expect, it } from 'vitest';
import { refusedOf } from '../../../src/core/foreign-machine.js';
import type { Hardware, HardwareDevice } from '../../../src/core/hardware.js';

const DISK: HardwareDevice = {
  ...{ driver: 'virtio-blk-pci', id: 'disk1', bus: 'pcie.0', use: 'disk', disk: 'd1' },
  properties: { addr: '04.0', serial: 'a,b', bootindex: '1' },
};
const HARDWARE: Hardware = {
  ...{ arch: 'x86_64', cpu: 'Skylake-Client-v1', topology: { cpus: 2, sockets: 1 }, firmware: 'bios-256k.bin' },
  ...{
    kernel: '/boot/vmlinuz-6.1',
    initrd: '/boot/initrd.img-6.1',
    append: 'console=ttyS0',
    bootOrder: 'cad',
    usb: true,
  },
  pflash: [{ unit: 0, disk: null, file: '/usr/share/OVMF/OVMF_CODE.fd', format: 'raw', readOnly: true }],
  devices: [DISK],
  others: [],
};
const MACHINE = { type: 'pc-q35-7.2', uuid: '11111111-2222-4333-8444-555555555555' };
const refused = (hardware: Partial<Hardware>, given: readonly string[] = []): string | null =>
  refusedOf(MACHINE, { ...HARDWARE, ...hardware }, (...options) => options.some((each) => given.includes(each)));
const device = (more: Partial<HardwareDevice>): Partial<Hardware> => ({ devices: [{ ...DISK, ...more }] });

describe('a machine that somebody has recorded', () => {
  it('is started where it names nothing of the host but files of its packages', () => {
    expect(refused({})).toBeNull();
    expect(refusedOf(MACHINE, undefined, () => false)).toBeNull();
    const tap = { use: 'network', driver: 'e1000', properties: { mac: '52:54:00:1:2:3' } } as const;
    expect(refused(device({ ...tap, peer: 'type=tap,ifname=tap0,script=/etc/qemu-ifup' }))).toBeNull();
  });

  it.each([
    ['a program of the backup as its QEMU', { arch: 'x/evil' }],
    ['options within its CPU', { cpu: 'max,x=y' }],
    ['options within its topology', { topology: { 'cpus=1,x': 1 } }],
    ['options within its boot order', { bootOrder: 'c,splash=/etc/shadow' }],
    ['firmware elsewhere', { firmware: '/etc/shadow' }],
    ['a kernel elsewhere', { kernel: '/home/x/vmlinuz' }],
    ['an initial file system elsewhere', { initrd: '/boot/../etc/shadow' }],
    ['a flash elsewhere', { pflash: [{ ...HARDWARE.pflash[0]!, file: '/etc/shadow' }] }],
    ['a flash of another format', { pflash: [{ ...HARDWARE.pflash[0]!, format: 'vmdk' }] }],
    ['a loader', device({ driver: 'loader', properties: {} })],
    ['a device of the host', device({ driver: 'vfio-pci', properties: {} })],
    ['options within a driver', device({ driver: 'VGA,romfile=/etc/shadow' })],
    ['a ROM', device({ properties: { romfile: '/etc/shadow' } })],
    ['options within a name', device({ properties: { 'addr=1,romfile': '/etc/shadow' } })],
    ['options within an interface', device({ peer: 'type=tap,ifname=a b' })],
  ] satisfies readonly (readonly [string, Partial<Hardware>])[])('is refused with %s', (_, hardware) => {
    expect(refused(hardware)).not.toBeNull();
  });

  it.each([
    ['machine type', { ...MACHINE, type: 'pc,initrd=/etc/shadow' }],
    ['UUID', { ...MACHINE, uuid: '1,x=y' }],
  ])('is refused with options within its %s', (_, machine) => {
    expect(refusedOf(machine, HARDWARE, () => false)).not.toBeNull();
  });

  it('is started with files that are given in the place of those', () => {
    expect(refused({ kernel: '/home/x/vmlinuz', initrd: '/home/x/initrd' }, ['kernel'])).toBeNull();
    expect(refused({ firmware: '/home/x/bios' }, ['bios'])).toBeNull();
  });
});
