import { describe, expect, it } from 'vitest';
import { parseDeviceTree } from '../../../src/core/device-tree.js';
import { type HardwareAnswers, hardwareOf, recordedHardware } from '../../../src/core/hardware.js';

/** What QEMU 7.2 prints of a q35 machine, but for most properties and most of the machine's own devices. */
const TREE = `bus: main-system-bus
  type System
  dev: q35-pcihost, id ""
    bus: pcie.0
      type PCIE
      dev: virtio-serial-pci, id ""
        addr = 07.0
        bus: virtio-bus
          type virtio-pci-bus
          dev: virtio-serial-device, id ""
            max_ports = 31 (0x1f)
            bus: virtio-serial-bus.0
              type virtio-serial-bus
              dev: virtserialport, id ""
                nr = 1 (0x1)
                name = "org.qemu.guest_agent.0"
      dev: ich9-ahci, id ""
        addr = 05.0
        bus: ide.7
          type IDE
        bus: ide.6
          type IDE
          dev: ide-cd, id ""
            drive = "cd"
            unit = 0 (0x0)
      dev: virtio-scsi-pci, id "ctl"
        addr = 04.0
        bus: virtio-bus
          type virtio-pci-bus
          dev: virtio-scsi-device, id ""
            num_queues = 2 (0x2)
            bus: ctl.0
              type SCSI
              dev: scsi-hd, id "sd1"
                drive = "n2"
                logical_block_size = 4096 (4 KiB)
                wwn = 0 (0x0)
                serial = "a,b"
                channel = 0 (0x0)
                scsi-id = 0 (0x0)
                lun = 3 (0x3)
      dev: virtio-net-pci, id ""
        addr = 02.0
        bus: virtio-bus
          type virtio-pci-bus
          dev: virtio-net-device, id ""
            mac = "52:54:00:12:34:56"
            netdev = "#net038"
      dev: qemu-xhci, id "usb"
        addr = 06.0
        bus: usb.0
          type usb-bus
          dev: usb-storage, id "stick"
            drive = ""
            removable = true
            port = "2"
            serial = ""
            bus: scsi.0
              type SCSI
              dev: scsi-hd, id ""
                drive = "n3"
                vendor = "QEMU"
                serial = ""
                channel = 0 (0x0)
                scsi-id = 0 (0x0)
                lun = 0 (0x0)
      dev: VGA, id ""
        vgamem_mb = 16 (0x10)
        addr = 01.0
        class VGA controller, addr 00:01.0, pci id 1234:1111 (sub 1af4:1100)
      dev: ich9-ahci, id ""
        addr = 1f.2
        bus: ide.0
          type IDE
          dev: ide-hd, id ""
            drive = "ide0-hd0"
            unit = 0 (0x0)
  dev: cfi.pflash01, id ""
    drive = "pflash1"
    name = "system.flash1"
`.replaceAll('\n', '\r\n');

const anon = (index: number, type: string) => {
  const path = `/machine/peripheral-anon/device[${index}]`;
  return { name: path, path, type };
};
const medium = (name: string, disk: string | null, more: object = {}) => ({
  ...{
    names: [name],
    disk,
    file: `/images/${name}`,
    format: 'qcow2',
    readOnly: disk === null,
    bootIndex: null,
    ...more,
  },
});
const ANSWERS: HardwareAnswers = {
  ...{ arch: 'x86_64', cpuType: 'Nehalem-x86_64-cpu', topology: { cpus: 2, dies: 1, clusters: 1, sockets: 1 } },
  ...{ firmware: 'bios-256k.bin', kernel: '', initrd: '', append: '', bootOrder: 'cad', usb: false, tree: TREE },
  network: 'virtio-net-pci.0: index=0,type=nic\r\n \\ #net038: index=0,type=tap,ifname=tap0,script=no\r\n',
  given: [
    anon(0, 'ich9-ahci'),
    anon(1, 'virtio-serial-pci'),
    { name: 'usb', path: '/machine/peripheral/usb', type: 'qemu-xhci' },
    { name: 'ctl', path: '/machine/peripheral/ctl', type: 'virtio-scsi-pci' },
  ],
  media: [
    medium('n2', 'disk1', { bootIndex: 2 }),
    medium('ide0-hd0', 'ide0-hd0'),
    medium('n3', 'disk3'),
    medium('pflash1', 'vars'),
    medium('cd', null),
  ],
};

it('reads who sits on what from the tree of devices, the oldest first', () => {
  const devices = parseDeviceTree(TREE);
  expect(devices.map(({ driver, bus, parent }) => [driver, bus, parent?.driver ?? null])).toEqual([
    ['cfi.pflash01', 'main-system-bus', null],
    ['q35-pcihost', 'main-system-bus', null],
    ['ich9-ahci', 'pcie.0', 'q35-pcihost'],
    ['ide-hd', 'ide.0', 'ich9-ahci'],
    ['VGA', 'pcie.0', 'q35-pcihost'],
    ['qemu-xhci', 'pcie.0', 'q35-pcihost'],
    ['usb-storage', 'usb.0', 'qemu-xhci'],
    ['scsi-hd', 'scsi.0', 'usb-storage'],
    ['virtio-net-pci', 'pcie.0', 'q35-pcihost'],
    ['virtio-net-device', 'virtio-bus', 'virtio-net-pci'],
    ['virtio-scsi-pci', 'pcie.0', 'q35-pcihost'],
    ['virtio-scsi-device', 'virtio-bus', 'virtio-scsi-pci'],
    ['scsi-hd', 'ctl.0', 'virtio-scsi-device'],
    ['ich9-ahci', 'pcie.0', 'q35-pcihost'],
    ['ide-cd', 'ide.6', 'ich9-ahci'],
    ['virtio-serial-pci', 'pcie.0', 'q35-pcihost'],
    ['virtio-serial-device', 'virtio-bus', 'virtio-serial-pci'],
    ['virtserialport', 'virtio-serial-bus.0', 'virtio-serial-device'],
  ]);
  expect(parseDeviceTree("unknown command: 'info qtree'\r\n")).toEqual([]);
});

describe('the record of a machine', () => {
  const { devices, ...rest } = hardwareOf(ANSWERS);

  it('has disks with their places, and the controllers that were given to the machine but not its own', () => {
    expect(devices.map(({ driver, use }) => `${use} ${driver}`)).toEqual([
      'disk ide-hd',
      'display VGA',
      'controller qemu-xhci',
      'disk usb-storage',
      'network virtio-net-pci',
      'controller virtio-scsi-pci',
      'disk scsi-hd',
      'controller ich9-ahci',
      'disk ide-cd',
      'controller virtio-serial-pci',
      'agent virtserialport',
    ]);
    expect(devices.find(({ id }) => id === 'sd1')).toEqual({
      ...{ driver: 'scsi-hd', id: 'sd1', bus: 'ctl.0', use: 'disk', disk: 'disk1' },
      properties: { channel: '0', 'scsi-id': '0', lun: '3', serial: 'a,b', logical_block_size: '4096', bootindex: '2' },
    });
    // The disk that QEMU makes within it has places of its own, which are not those of the stick.
    expect(devices.find(({ id }) => id === 'stick')).toEqual({
      ...{ driver: 'usb-storage', id: 'stick', bus: 'usb.0', use: 'disk', disk: 'disk3' },
      properties: { port: '2', removable: 'true' },
    });
    expect(devices.find(({ driver }) => driver === 'ich9-ahci')?.properties).toEqual({ addr: '05.0' });
  });

  it('has CPU, firmware and network as QEMU tells them', () => {
    expect(rest).toMatchObject({
      ...{ arch: 'x86_64', cpu: 'Nehalem', topology: { cpus: 2, sockets: 1 }, kernel: null, bootOrder: 'cad' },
      pflash: [{ unit: 1, disk: 'vars', file: '/images/pflash1', readOnly: false }],
    });
    expect(devices.find(({ use }) => use === 'network')).toMatchObject({
      ...{ properties: { addr: '02.0', mac: '52:54:00:12:34:56' }, peer: 'index=0,type=tap,ifname=tap0,script=no' },
    });
  });

  it('of a QEMU that refuses all is empty', () => {
    const nothing = { arch: null, cpuType: null, topology: null, firmware: null, kernel: null, initrd: null };
    const told = hardwareOf({ ...ANSWERS, ...nothing, append: null, bootOrder: null, tree: null, network: null });
    expect(told).toMatchObject({ arch: null, cpu: null, topology: null, pflash: [], devices: [], others: [] });
  });
});

it('is found with the latest point of the chain that has one, up to the point that is asked for', () => {
  const hardware = (cpu: string) => ({ ...hardwareOf(ANSWERS), cpu });
  const point = (id: string, chain: string | null, cpu?: string) => ({
    ...{ id, chain, machine: cpu === undefined ? {} : { hardware: hardware(cpu) } },
  });
  const points = [
    point('a', '1', 'one'),
    point('b', '1'),
    point('c', null, 'copy'),
    point('d', '1', 'two'),
    point('e', '2'),
  ];
  const found = (id: string, chain: string | null) => recordedHardware(points, { id, chain })?.cpu;
  expect(found('a', '1')).toBe('one');
  expect(found('b', '1')).toBe('one');
  expect(found('c', null)).toBe('copy');
  expect(found('d', '1')).toBe('two');
  expect(found('e', '2')).toBeUndefined();
});
