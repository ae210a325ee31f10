import { join } from 'node:path';
import { expect, it } from 'vitest';
import { expectCli } from '../support/cli.js';
import { write } from '../support/lab/guest-writes.js';
import { run } from '../support/lab/programs.js';
import { type OverlaidDomain, overlaidDomain, OVERLAID } from '../support/overlaid-domain.js';
import { useLibvirt } from '../support/use-libvirt.js';

/** Disks that are grown while overlays are above their images, which are then smaller than the disk. */
const MiB = 1024 * 1024;
const lab = useLibvirt();

async function tracked(): Promise<OverlaidDomain> {
  const vm = await overlaidDomain(lab);
  await vm.writeAll(1, 0x21);
  await vm.track('auto');
  return vm;
}

async function grow(vm: OverlaidDomain, disk: string, mebibytes: number): Promise<void> {
  await lab.virsh(['blockresize', vm.domain.uuid, disk, `${mebibytes * MiB}B`]);
  await write(vm.domain, disk, { offset: (mebibytes - 1) * MiB, length: MiB, pattern: mebibytes });
}

async function growDevice(vm: OverlaidDomain, mebibytes: number): Promise<void> {
  await run('truncate', [`--size=${mebibytes * MiB}`, join(lab.dir, 'images', `${vm.domain.name}-vdc`)]);
  await run('losetup', ['--set-capacity', vm.imageOf('vdc')]);
}

/** `qemu-img compare` takes a longer image that ends in zeros for the same. */
async function expectSizes(vm: OverlaidDomain, mebibytes: number): Promise<void> {
  const output = join(lab.dir, `sizes-${Math.random().toString(36).slice(2)}`);
  await expectCli(0, ['restore', '--target', vm.target, '--output', output]);
  for (const disk of OVERLAID) {
    const { stdout } = await run('qemu-img', ['info', '--output=json', join(output, `${disk}.qcow2`)]);
    expect(JSON.parse(stdout)).toMatchObject({ 'virtual-size': mebibytes * MiB });
  }
}

it('between two runs: the increment has the new size, and the images grow with the merge', async () => {
  const vm = await tracked();
  await growDevice(vm, 40);
  for (const disk of OVERLAID) await grow(vm, disk, 40);
  for (const { level, changed } of (await vm.track('inc', '--verify')).point.disks) {
    expect({ level, changed }).toEqual({ level: 'inc', changed: MiB });
  }
  await vm.expectLayers(1);
  await expectSizes(vm, 40);
  await vm.expectRestored();
  await expectCli(0, [...vm.vm, 'consolidate-source']);
  await vm.expectLayers(0);
  await vm.expectRestored();
});

it('while a run copies: its point has the old size, the next one the new', async () => {
  const vm = await tracked();
  const running = await vm.slowly('--level', 'inc', '--track', 'overlay');
  await growDevice(vm, 48);
  for (const disk of OVERLAID) await grow(vm, disk, 48);
  expect((await running.ended).exitCode).toBe(0);
  await expectSizes(vm, 32);
  await vm.expectLayers(1);
  for (const { changed } of (await vm.track('inc')).point.disks) expect(changed).toBe(MiB);
  await expectSizes(vm, 48);
  await vm.expectRestored();
});

it('above a device that was not extended: points are right, why nothing is merged is said, and it is once it can be', async () => {
  const vm = await tracked();
  for (const disk of OVERLAID) await grow(vm, disk, 40);
  const why = `the disk was grown to 40.0 MiB, and ${vm.imageOf('vdc')} has 32.0 MiB; extend that device (as by lvextend)`;
  for (const pattern of [0x31, 0x32]) {
    await vm.writeAll(2, pattern);
    const { warnings } = await vm.track('inc');
    const left = warnings.filter(({ code }) => code === 'overlay-left');
    expect(left.map(({ text }) => text.includes(why))).toEqual([true]);
    // However many runs: those above the one that cannot go down go into it.
    expect(await vm.chainOf('vdc')).toHaveLength(3);
    await expectSizes(vm, 40);
    await vm.expectRestored();
  }
  const { stderr } = await expectCli(1, [...vm.vm, 'consolidate-source']);
  expect(stderr).toContain(why);
  expect(stderr).toMatch(/No data is at risk: the guest goes on with the overlay/);
  await growDevice(vm, 40);
  expect((await vm.track('auto')).warnings.map(({ code }) => code)).not.toContain('overlay-left');
  await vm.expectRestored();
  await expectCli(0, [...vm.vm, 'consolidate-source']);
  await vm.expectLayers(0);
  await vm.expectRestored();
});
