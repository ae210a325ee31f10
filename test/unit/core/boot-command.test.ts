import { expect, it } from 'vitest';
import { commandToBoot, optionsIn } from '../../../src/core/boot-command.js';

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
