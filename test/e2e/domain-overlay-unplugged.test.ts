import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { expectCli, startCli } from '../support/cli.js';
import { crashCli } from '../support/crash-point.js';
import { createImage } from '../support/lab/disk-images.js';
import { expectPattern, flush, write } from '../support/lab/guest-writes.js';
import { run } from '../support/lab/programs.js';
import { type OverlaidDomain, overlaidDomain, OVERLAID } from '../support/overlaid-domain.js';
import { patient } from '../support/patience.js';
import { useLibvirt } from '../support/use-libvirt.js';

/** Disks that are unplugged and plugged in while overlays are above their images: no write is lost, and backups go on. */
const MiB = 1024 * 1024;
const lab = useLibvirt();

/** With a guest, which has to let go of a disk. */
const withGuest = (): Promise<OverlaidDomain> => overlaidDomain(lab, { guest: true });

async function unplug(vm: OverlaidDomain, disk: string, ...how: string[]): Promise<void> {
  await flush(vm.domain, disk);
  await lab.virsh(['detach-disk', vm.domain.uuid, disk, '--live', ...how]);
  const attached = async (): Promise<string> => (await lab.virsh(['domblklist', vm.domain.uuid])).stdout;
  await expect.poll(attached, { timeout: patient(60_000), interval: 200 }).not.toMatch(new RegExp(`^ ${disk} `, 'm'));
}

async function plugIn(vm: OverlaidDomain, disk: string, file: string, ...how: string[]): Promise<void> {
  const asQcow2 = ['--subdriver', 'qcow2', '--targetbus', 'virtio'];
  await lab.virsh(['attach-disk', vm.domain.uuid, file, disk, ...asQcow2, ...how]);
}

/** Also where the definition for the next start has another. */
async function topOf(vm: OverlaidDomain, disk: string, ...which: string[]): Promise<string> {
  const { stdout } = await lab.virsh(['domblklist', vm.domain.uuid, ...which]);
  return new RegExp(`^ ${disk} +(\\S+)`, 'm').exec(stdout)?.[1] ?? '';
}

const doctor = async (vm: OverlaidDomain): Promise<string> =>
  (await expectCli(0, [...vm.vm, 'doctor', '--target', vm.target])).stdout;

const levelsOf = ({ point }: { readonly point: { readonly disks: readonly { disk: string; level: string }[] } }) =>
  point.disks.map(({ disk, level }) => `${disk} ${level}`);

const reasonsOf = async (vm: OverlaidDomain, ...more: string[]): Promise<string> => {
  const asked = ['backup', '--target', vm.target, '--method', 'overlay', '--track', 'overlay', '--level', 'inc'];
  return (await expectCli(0, [...vm.vm, ...asked, '--overlay-dir', vm.overlays, ...more])).stderr;
};

describe('between two runs', () => {
  it('a disk that is unplugged from the running domain keeps its overlay, and goes on with it', async () => {
    const vm = await withGuest();
    await vm.writeAll(1, 0x11);
    await vm.track('auto');
    await vm.writeAll(2, 0x12);
    const overlay = await topOf(vm, 'vdb');
    await unplug(vm, 'vdb');
    const told = await doctor(vm);
    expect(told).not.toContain('a run that died');
    expect(told).toContain(`${overlay} holds what the guest wrote to a disk that is attached no more`);
    expect(told).toMatch(/^info .*the next start of the domain attaches it again/m);
    const without = await reasonsOf(vm);
    expect(without).toMatch(/^vda: INC, changes since/m);
    expect(without).not.toMatch(/^warning/m);
    const merged = await expectCli(0, [...vm.vm, 'consolidate-source']);
    expect(merged.stderr).toMatch(/warning: .*attached no more.*run this again when the disk is attached/);
    expect(await topOf(vm, 'vda')).toBe(vm.imageOf('vda'));

    await plugIn(vm, 'vdb', overlay);
    await expectPattern(vm.domain, 'vdb', { offset: 2 * MiB, length: MiB, pattern: 0x12 });
    await vm.writeAll(3, 0x13);
    const fresh = join(lab.dir, 'images', `${vm.domain.name}-vdd`);
    await createImage({ file: fresh, format: 'qcow2', size: 4 * MiB });
    await plugIn(vm, 'vdd', fresh, '--persistent');
    await write(vm.domain, 'vdd', { offset: 0, length: MiB, pattern: 0x14 });
    const reasons = await reasonsOf(vm, '--level', 'auto');
    // What is below it stood still all the time.
    expect(reasons).toMatch(/^vdb: INC, changes since FULL/m);
    expect(reasons).toMatch(/^vdd: FULL/m);
    await vm.expectRestored();
    expect(levelsOf(await vm.track('inc'))).toEqual(['vda inc', 'vdb inc', 'vdc inc', 'vdd inc']);
    await expectCli(0, [...vm.vm, 'consolidate-source']);
    await vm.expectLayers(0);
    expect(await topOf(vm, 'vdd')).toBe(fresh);
  });

  it('of one that is unplugged for good doctor tells what its overlay is, for as long as it is there', async () => {
    const vm = await withGuest();
    await vm.writeAll(1, 0x21);
    await vm.track('auto');
    await vm.writeAll(2, 0x22);
    const overlay = await topOf(vm, 'vdb');
    await unplug(vm, 'vdb', '--config');
    const expectTold = async (): Promise<void> => {
      const told = await doctor(vm);
      expect(told).not.toContain('a run that died');
      expect(told).toMatch(/^warning .*holds what the guest wrote to a disk that is attached no more/m);
      expect(told).toContain(`attach-disk ${vm.domain.name} ${overlay} TARGET`);
    };
    await expectTold();
    expect(await reasonsOf(vm)).toContain(`warning: ${overlay} holds what the guest wrote`);
    // A run tells it once.
    expect(await reasonsOf(vm)).not.toContain(overlay);
    await expectTold();
    await vm.domain.destroy();
    await expectTold();
    await vm.domain.start();
    await expectTold();

    await plugIn(vm, 'vdb', overlay, '--persistent');
    expect(await doctor(vm)).not.toContain('attached no more');
    expect(await reasonsOf(vm)).toMatch(/^vdb: INC, changes since FULL/m);
    await expectCli(0, [...vm.vm, 'consolidate-source']);
    await vm.expectLayers(0);
    await vm.expectRestored();
    await vm.domain.destroy();
    await vm.domain.start();
    await expectPattern(vm.domain, 'vdb', { offset: 2 * MiB, length: MiB, pattern: 0x22 });
  });
});

describe('while a run copies', () => {
  it.each([
    ['a copy', ['--level', 'copy'], 0],
    ['a FULL that tracks', ['--track', 'overlay', '--level', 'full'], 1],
    ['an INC', ['--track', 'overlay', '--level', 'inc'], 1],
  ] as const)('%s of a disk that is unplugged ends, and the others are as they were', async (_, how, before) => {
    const vm = await withGuest();
    await vm.writeAll(1, 0x31);
    if (before === 1) await vm.track('auto');
    const running = await vm.slowly(...how);
    await vm.writeAll(2, 0x32);
    await unplug(vm, 'vdb');
    const overlay = await topOf(vm, 'vdb', '--inactive');
    const { exitCode, stdout, stderr } = await running.ended;
    expect(exitCode).toBe(1);
    expect(stdout).toMatch(/vdb was detached while it was copied/);
    expect(stdout).toContain(overlay);
    expect(stderr).not.toMatch(/^warning/m);
    for (const disk of ['vda', 'vdc']) expect(await vm.chainOf(disk)).toHaveLength(1 + before);
    expect(await doctor(vm)).not.toContain('a run that died');

    const reasons = await reasonsOf(vm, '--level', 'auto');
    if (before === 1) expect(reasons).toMatch(/^vda: INC, changes since FULL[^]*^vdc: INC, changes since FULL/m);
    await plugIn(vm, 'vdb', overlay);
    await expectPattern(vm.domain, 'vdb', { offset: 2 * MiB, length: MiB, pattern: 0x32 });
    await vm.writeAll(3, 0x33);
    await vm.track('auto');
    await vm.expectRestored();
    await vm.expectLayers(1);
    await expectCli(0, [...vm.vm, 'consolidate-source']);
    await vm.expectLayers(0);
    for (const disk of OVERLAID) {
      await expectPattern(vm.domain, disk, { offset: 2 * MiB, length: MiB, pattern: 0x32 });
    }
  });
});

describe('while overlays are merged', () => {
  const jobOf = async (vm: OverlaidDomain, disk: string): Promise<string> =>
    (await lab.virsh(['blockjob', vm.domain.uuid, disk, '--info', '--raw'])).stdout;

  it('a disk that is unplugged keeps what the guest wrote, which the run tells, and plugged in again it is merged', async () => {
    const vm = await withGuest();
    await vm.writeAll(1, 0x51);
    const running = await vm.slowly('--level', 'copy');
    for (let at = 8; at < 16; at += 1) await write(vm.domain, 'vda', { offset: at * MiB, length: MiB, pattern: at });
    await write(vm.domain, 'vdb', { offset: 2 * MiB, length: MiB, pattern: 0x52 });
    const overlay = await topOf(vm, 'vdb');
    await expect
      .poll(() => jobOf(vm, 'vda'), { timeout: patient(120_000), interval: 50 })
      .toMatch(/Active Block Commit/);
    await unplug(vm, 'vdb', '--config');
    const { exitCode, stderr } = await running.ended;
    expect(exitCode).toBe(0);
    expect(stderr).toContain(`What the guest wrote to vdb last is in ${overlay}: attach the disk by that file`);
    expect(existsSync(overlay)).toBe(true);
    for (const disk of ['vda', 'vdc']) expect(await vm.chainOf(disk)).toEqual([vm.imageOf(disk)]);

    await plugIn(vm, 'vdb', overlay, '--persistent');
    await expectCli(0, [...vm.vm, 'consolidate-source']);
    await vm.expectLayers(0);
    await expectPattern(vm.domain, 'vdb', { offset: 2 * MiB, length: MiB, pattern: 0x52 });
  });

  it('by consolidate-source, a disk that is unplugged is told of, and not taken for one on its image', async () => {
    const vm = await withGuest();
    await vm.writeAll(1, 0x61);
    await vm.track('auto');
    await vm.writeAll(2, 0x62);
    const overlay = await topOf(vm, 'vdb');
    const dir = join(lab.dir, `${vm.domain.name}-bin`);
    await mkdir(dir);
    const [waits, goesOn] = [join(dir, 'waits'), join(dir, 'goes-on')];
    const virsh = (await run('which', ['virsh'])).stdout.trim();
    const hold = `touch ${waits}; while [ ! -e ${goesOn} ]; do sleep 0.05; done`;
    const script = `#!/bin/sh\ncase "$*" in *blockcommit*vda*) ${hold};; esac\nexec ${virsh} "$@"\n`;
    await writeFile(join(dir, 'virsh'), script, { mode: 0o755 });
    const env = { PATH: `${dir}:${process.env['PATH'] ?? ''}` };
    const running = startCli([...vm.vm, 'consolidate-source'], { env });
    await expect.poll(() => existsSync(waits), { timeout: patient(60_000), interval: 50 }).toBe(true);
    await unplug(vm, 'vdb', '--config');
    await writeFile(goesOn, '');
    const { exitCode, stdout, stderr } = await running;
    expect(exitCode).toBe(0);
    expect(stdout).not.toContain('vdb');
    expect(stderr).toContain(`${overlay} holds what the guest wrote to a disk that is attached no more`);
    for (const disk of ['vda', 'vdc']) expect(await vm.chainOf(disk)).toEqual([vm.imageOf(disk)]);
    await plugIn(vm, 'vdb', overlay, '--persistent');
    await expectCli(0, [...vm.vm, 'consolidate-source']);
    await vm.expectLayers(0);
    await expectPattern(vm.domain, 'vdb', { offset: 2 * MiB, length: MiB, pattern: 0x62 });
  });
});

it.each([
  ['was recorded', 'after'],
  ['nobody has recorded', 'before'],
] as const)(
  'an empty overlay stays while one that %s builds on it, whose disk is on its image alone',
  async (_, when) => {
    const vm = await overlaidDomain(lab);
    for (let at = 1; at < 5; at += 1) await vm.writeAll(at, at);
    await vm.track('auto');
    for (const disk of ['vda', 'vdc'])
      await write(vm.domain, disk, { offset: 8 * MiB, length: 8 * MiB, pattern: 0x41 });
    const lower = await topOf(vm, 'vdb');
    const asked = ['backup', '--target', vm.target, '--method', 'overlay', '--track', 'overlay', '--level', 'inc'];
    const died = { when, call: 'spawn', matches: /virsh .*metadata .*--set/ } as const;
    await crashCli(died, [...vm.vm, ...asked, '--overlay-dir', vm.overlays]);
    expect(await topOf(vm, 'vdb')).not.toBe(lower);
    await write(vm.domain, 'vdb', { offset: 2 * MiB, length: MiB, pattern: 0x42 });
    await flush(vm.domain, 'vdb');
    const upper = await topOf(vm, 'vdb');
    await vm.domain.destroy();
    await lab.virsh(['detach-disk', vm.domain.uuid, 'vdb', '--config']);
    const image = [vm.imageOf('vdb'), 'vdb', '--subdriver', 'raw', '--targetbus', 'virtio', '--config'];
    await lab.virsh(['attach-disk', vm.domain.uuid, ...image]);
    await vm.domain.start();
    const { stderr } = await expectCli(0, [...vm.vm, 'recover', '--target', vm.target]);
    expect(stderr).toContain(`${upper} builds on ${lower}`);
    expect([upper, lower].map(existsSync)).toEqual([true, true]);
    await vm.domain.destroy();
    const pattern = ['-f', 'qcow2', '-c', `read -P 0x42 ${2 * MiB} ${MiB}`, upper];
    expect((await run('qemu-io', pattern)).stdout).not.toMatch(/failed/);
  },
);
