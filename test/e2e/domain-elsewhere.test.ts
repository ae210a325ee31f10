import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { type AnotherHost, anotherHost } from '../support/another-host.js';
import { expectCli } from '../support/cli.js';
import { type DomainScenario, domainScenario } from '../support/domain-scenario.js';
import { createImage } from '../support/lab/disk-images.js';
import { write } from '../support/lab/guest-writes.js';
import { run } from '../support/lab/programs.js';
import { useLibvirt } from '../support/use-libvirt.js';

const MiB = 1024 * 1024;
const OURS = 'qmpbackup-0123456789abcdef-0123456789ab';

const lab = useLibvirt();
let other: AnotherHost;
let scenario: DomainScenario;
/** The image, and what the other host has at its path. */
let image: string;
let twin: string;
beforeAll(async () => {
  other = await anotherHost(lab);
  image = join(other.shared, 'vm.qcow2');
  twin = join(other.here, 'vm.qcow2');
  for (const file of [image, twin]) await createImage({ file, format: 'qcow2', size: 16 * MiB });
  await run('qemu-io', ['-c', 'write -P 0xbb 0 1M', twin]);
  await run('qemu-img', ['bitmap', '--add', twin, OURS]);
  scenario = await domainScenario(lab, { name: 'far', disks: [{ target: 'vda', file: image }] });
  await write(scenario.domain, 'vda', { offset: 0, length: MiB, pattern: 0xaa });
  await scenario.backup('auto');
});

/** Every verb that would read, write or name files of the wrong host, or take a lock that the right one does not know. */
async function expectRefusals(
  connect: readonly string[],
  how: Parameters<AnotherHost['run']>[1],
  { every = false } = {},
): Promise<void> {
  const before = [await readFile(twin), await readFile(image), await scenario.checkpoints()];
  const target = join(lab.dir, 'elsewhere');
  const output = join(lab.dir, 'elsewhere-restored');
  const vm = [...connect, '--domain', 'far'];
  const backup = [...vm, 'backup', '--level', 'auto', '--target', target];
  const restore = [...connect, 'restore', '--target', scenario.target, '--output', output];
  const more = [
    [...backup, '--dry-run'],
    [...backup, '--start-paused'],
    [...backup, '--method', 'push'],
    [...vm, 'cleanup', '--remove-bitmaps', '--dry-run'],
    [...vm, 'recover', '--target', scenario.target],
    [...restore, '--define', '--name', 'far-2'],
  ];
  for (const args of [backup, [...vm, 'cleanup', '--remove-bitmaps'], ...(every ? more : [])]) {
    const { exitCode, stderr } = await other.run(args, how);
    expect([args.join(' '), exitCode, stderr]).toEqual([
      args.join(' '),
      13,
      expect.stringMatching(/does not have the files of this host: it.*\n?.*hint: .*Run qmpbackup on the host/s),
    ]);
  }
  const doctor = await other.run([...vm, 'doctor', '--target', target], how);
  expect([doctor.exitCode, doctor.stdout]).toEqual([1, expect.stringMatching(/^error .*files of this host/m)]);
  const info = await other.run(['--json', ...vm, 'info', '--show', 'bitmaps'], how);
  expect(info.json()).toMatchObject({
    elsewhere: expect.stringContaining('host') as string,
    vm: { disks: [{ device: 'vda', compat: null, bitmaps: [{ count: null, inconsistent: false }] }] },
  });
  expect(info.stdout).not.toContain(OURS);
  expect((await other.run([...vm, 'info'], how)).stdout).toMatch(/^Its images were not looked at: it/m);
  expect([existsSync(target), existsSync(output)]).toEqual([false, false]);
  expect([await readFile(twin), await readFile(image), await scenario.checkpoints()]).toEqual(before);
}

describe('a libvirt whose files are those of another host', () => {
  it('is refused by whatever would take files of this host for its own, whether its domain runs or is off', async () => {
    await expectRefusals(['--connect', other.farUri], {});
    await scenario.domain.destroy();
    await expectRefusals(['--connect', other.farUri], {}, { every: true });
  });

  it('is known for one also by a socket that is handed through, and as the default of libvirt', async () => {
    await expectRefusals(['--connect', lab.uri], {});
    const vm = ['--domain', 'far', 'backup', '--level', 'auto', '--target', join(lab.dir, 'by-default')];
    const { exitCode, stderr } = await other.run(vm, { env: { LIBVIRT_DEFAULT_URI: other.farUri } });
    expect([exitCode, stderr]).toEqual([13, expect.stringContaining('it is on the host')]);
  });

  it('is known for one where both hosts have one name, by a file that it does not see', async () => {
    await expectRefusals(['--connect', other.farUri], { sameName: 'temporary' });
  });

  it('and whose name and temporary files are those of this one: an image in another folder of the same path is not its disk', async () => {
    const vm = ['--connect', lab.uri, '--domain', 'far'];
    const before = [await readFile(twin), await scenario.checkpoints()];
    for (const args of [
      [...vm, 'backup', '--level', 'auto', '--target', join(lab.dir, 'other-images')],
      [...vm, 'cleanup', '--remove-bitmaps'],
    ]) {
      const { exitCode, stderr } = await other.run(args, { sameName: 'images' });
      expect([exitCode, stderr]).toEqual([13, expect.stringContaining('does not see a file that was made in')]);
    }
    expect([await readFile(twin), await scenario.checkpoints()]).toEqual(before);
  });

  it('is none where only the way leads over a host: there it is backed up as ever', async () => {
    const vm = ['--connect', other.farUri, '--domain', 'far'];
    const target = join(lab.dir, 'proxied');
    await lab.virsh(['start', scenario.domain.uuid], { allowed: [0, 1] });
    await expectCli(0, [...vm, 'backup', '--level', 'auto', '--target', target]);
    await scenario.domain.destroy();
    await expectCli(0, [...vm, 'backup', '--level', 'auto', '--target', target]);
    await scenario.expectChainEqualsDisks(target);
  });
});
