import { expect, it } from 'vitest';
import { commandToBoot, optionsIn } from '../../../src/core/boot-command.js';
import type { Hardware } from '../../../src/core/hardware.js';

it('knows options of QEMU from values that are called so', () => {
  expect(optionsIn(['-m', 'smp', '--cpu', 'host', '-name', 'snapshot'])).toEqual(['m', 'cpu', 'name']);
  const { args } = commandToBoot({
    ...{ machine: { name: null, uuid: null, type: 'q35', memory: 64 << 20, cpus: 2 }, hardware: undefined, disks: [] },
    ...{ network: 'none', agent: false, sockets: { monitor: '/m', agent: '/a' }, serialLog: '/s' },
    more: ['-name', 'm', '-append', 'smp'],
  });
  expect(args).toContain('64M');
  expect(args[args.indexOf('-smp') + 1]).toBe('2');
});

const HARDWARE: Hardware = {
  ...{ arch: 'x86_64', cpu: null, topology: null, firmware: null, kernel: null, initrd: null, append: null },
  ...{ bootOrder: null, usb: false, devices: [], others: [] },
  pflash: [
    { unit: 0, disk: null, file: '/opt/code.fd', format: 'raw', readOnly: true },
    { unit: 1, disk: 'vars', file: '/images/vars', format: 'raw', readOnly: false },
  ],
};

it.each([
  { more: [], refused: true, machine: 'pflash0=qmpbackup-pflash0,pflash1=vars', left: false },
  { more: ['-drive', 'if=pflash,unit=0,file=f'], refused: false, machine: 'pflash1=vars', left: false },
  { more: ['-pflash', 'f'], refused: false, machine: 'pflash1=vars', left: false },
  { more: ['-M', 'pflash0=mine'], refused: false, machine: 'pflash1=vars', left: false },
  { more: ['-pflash', 'f', '--drive', 'file=g,if=pflash'], refused: false, machine: null, left: true },
  { more: ['-M', 'pflash0=mine,pflash1=vars'], refused: false, machine: null, left: false },
  { more: ['-bios', 'f'], refused: false, machine: null, left: true },
  {
    more: ['-drive', 'if=virtio,file=f'],
    refused: true,
    machine: 'pflash0=qmpbackup-pflash0,pflash1=vars',
    left: false,
  },
])('flash that is given as $more takes the place of what is recorded', ({ more, refused, machine, left }) => {
  const plan = commandToBoot({
    machine: { name: null, uuid: null, type: 'q35', memory: 64 << 20, cpus: 1 },
    hardware: HARDWARE,
    disks: [{ disk: 'vars', called: 'vars', image: '/to/vars.qcow2', backing: null }],
    ...{ network: 'none', agent: false, sockets: { monitor: '/m', agent: '/a' }, serialLog: '/s', more },
  });
  expect(plan.refused !== null).toBe(refused);
  expect(plan.args[plan.args.indexOf('-machine') + 1]).toBe(`type=q35${machine === null ? '' : `,${machine}`}`);
  expect(plan.args.filter((word) => word.includes('drive=vars'))).toEqual([]);
  expect(plan.differs.some((what) => what.startsWith('vars is left out'))).toBe(left);
});
