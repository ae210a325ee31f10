/** What a QEMU says of itself in its schema is what it does, on each QEMU that the tests run against. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type QemuFeatures, readFeatures } from '../../src/qemu/features.js';
import { run as qmp } from '../../src/qmp/commands.js';
import { createImage } from '../support/lab/disk-images.js';
import { makeLabDir, run } from '../support/lab/programs.js';
import { startQemu, type Vm } from '../support/lab/qemu.js';

const MIB = 1024 * 1024;

let dir = '';
let vm: Vm;
let features: QemuFeatures;
beforeAll(async () => {
  dir = await makeLabDir();
  for (const name of ['disk', 'scratch', 'target'])
    await createImage({ file: join(dir, `${name}.qcow2`), format: 'qcow2', size: MIB });
  vm = await startQemu({ dir, disks: [{ id: 'disk1', file: join(dir, 'disk.qcow2'), via: 'blockdev' }] });
  features = await readFeatures(vm.control);
});
afterAll(async () => {
  await vm.kill();
  await rm(dir, { recursive: true, force: true });
});

const attempt = (command: Promise<unknown>): Promise<true | string> =>
  command.then(
    () => true,
    (error: unknown) => String(error),
  );

describe('the QEMU under test', () => {
  it('is the chosen one, its qemu-img too', async () => {
    const { major } = vm.control.greeting.qemuVersion;
    if (process.env.QMPBACKUP_TEST_QEMU) expect(String(major)).toBe(process.env.QMPBACKUP_TEST_QEMU);
    expect((await run('qemu-img', ['--version'])).stdout).toMatch(new RegExp(`^qemu-img version ${major}\\.`));
  });

  it('fleeces as its schema says, with a say about failures and delays', async () => {
    expect(features).toMatchObject({
      copyBeforeWrite: { onCbwError: true, cbwTimeout: true },
      snapshotAccess: true,
    });
    const file = { driver: 'file', filename: join(dir, 'scratch.qcow2') };
    await qmp(vm.control, 'blockdev-add', { 'node-name': 'scratch', driver: 'qcow2', file });
    await qmp(vm.control, 'blockdev-add', {
      'node-name': 'filter',
      driver: 'copy-before-write',
      file: 'disk1',
      target: 'scratch',
      'on-cbw-error': 'break-snapshot',
      'cbw-timeout': 5,
    });
    const path = '/machine/peripheral/dev-disk1/virtio-backend';
    await qmp(vm.control, 'qom-set', { path, property: 'drive', value: 'filter' });
    await qmp(vm.control, 'blockdev-add', { 'node-name': 'instant', driver: 'snapshot-access', file: 'filter' });
    await qmp(vm.control, 'blockdev-del', { 'node-name': 'instant' });
    await qmp(vm.control, 'qom-set', { path, property: 'drive', value: 'disk1' });
    for (const node of ['filter', 'scratch']) await qmp(vm.control, 'blockdev-del', { 'node-name': node });
  });

  it.each([
    ['drive-backup', 'on-cbw-error', 'break-snapshot', () => features.driveBackup.onCbwError],
    ['drive-backup', 'cbw-timeout', 5, () => features.driveBackup.cbwTimeout],
    ['blockdev-backup', 'on-cbw-error', 'break-snapshot', () => features.blockdevBackup.onCbwError],
    ['blockdev-backup', 'cbw-timeout', 5, () => features.blockdevBackup.cbwTimeout],
  ] as const)('takes in %s the option %s just where its schema names it', async (command, option, value, says) => {
    // With a device that is not there, so that no job starts: the options are looked at first.
    const job = { 'job-id': 'j', device: 'nothing', sync: 'full', target: join(dir, 'target.qcow2'), [option]: value };
    const outcome = await attempt(vm.control.execute(command, job));
    expect(outcome).toContain(says() ? "'nothing'" : `Parameter '${option}' is unexpected`);
  });

  it('reads and writes the compression type that it names', async () => {
    expect(features.compressionType).toBe('zstd');
    const file = join(dir, 'zstd.qcow2');
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'compression_type=zstd', file, '1M']);
    await qmp(vm.control, 'blockdev-add', {
      'node-name': 'zstd',
      driver: 'qcow2',
      file: { driver: 'file', filename: file },
    });
    await qmp(vm.control, 'blockdev-del', { 'node-name': 'zstd' });
  });
});
