import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { expectCli } from '../support/cli.js';
import { checkFs, checkWrittenFiles } from '../support/lab/compare.js';
import { makeExt4 } from '../support/lab/disk-images.js';
import { flush } from '../support/lab/guest-writes.js';
import type { DomainDisk, LabDomain } from '../support/lab/libvirt-domain.js';
import { run } from '../support/lab/programs.js';
import { patient } from '../support/patience.js';
import { startRun } from '../support/running-backup.js';
import { type BackupAnswer, textsOf } from '../support/scenario.js';
import { useLibvirt, useSmallFolder } from '../support/use-libvirt.js';

/** A real guest that writes all the time, to a qcow2 image, a raw file and a block device. */
const MiB = 1024 * 1024;
const MOUNTS = ['/mnt/d1', '/mnt/d2', '/mnt/d3'] as const;

interface Answer extends BackupAnswer {
  readonly freeze: { readonly fileSystems: number } | null;
}

const small = useSmallFolder('24m');
const lab = useLibvirt();

interface Writing {
  readonly domain: LabDomain;
  readonly disks: readonly (DomainDisk & { readonly file: string })[];
  readonly overlays: string;
  readonly target: string;
  backup(...more: string[]): Promise<Answer>;
  layersOf(disk: string): Promise<readonly string[]>;
  restored(point: string, use: (images: readonly string[]) => Promise<void>): Promise<void>;
}

async function writingDomain(name: string): Promise<Writing> {
  const file = (disk: string): string => join(lab.dir, 'images', `${name}-${disk}`);
  await makeExt4({ file: file('vda'), label: 'DATA1', format: 'qcow2', size: 64 * MiB });
  await makeExt4({ file: file('vdb'), label: 'DATA2', format: 'raw', size: 64 * MiB });
  await makeExt4({ file: file('vdc'), label: 'DATA3', format: 'raw', size: 64 * MiB });
  const device = (await run('losetup', ['--find', '--show', file('vdc')])).stdout.trim();
  lab.atEnd(() => run('losetup', ['--detach', device]));
  const disks = [
    { target: 'vda', file: file('vda') },
    { target: 'vdb', file: file('vdb'), format: 'raw' as const },
    { target: 'vdc', file: device, format: 'raw' as const },
  ];
  const domain = await lab.define({ name, disks, guest: { workload: ['writer'] } });
  await domain.start();
  await domain.guest.waitForWorkload('writer');
  const overlays = join(lab.dir, `overlays-${name}`);
  await mkdir(overlays);
  const target = join(lab.dir, `target-${name}`);
  const vm = ['--connect', lab.uri, '--domain', name];
  return {
    domain,
    disks,
    overlays,
    target,
    backup: async (...more) =>
      (await expectCli(0, ['--json', ...vm, 'backup', '--target', target, '--method', 'overlay', ...more])).json(),
    layersOf: async (disk) => {
      const { stdout } = await lab.virsh(['domblklist', domain.uuid]);
      const [, top = ''] = new RegExp(`${disk} +(\\S+)`).exec(stdout) ?? [];
      const format = disk !== 'vda' && !top.endsWith('.overlay') ? 'raw' : 'qcow2';
      const chain = (await run('qemu-img', ['info', '-U', '--backing-chain', '--output=json', '-f', format, top]))
        .stdout;
      return (JSON.parse(chain) as { filename: string }[]).map(({ filename }) => filename);
    },
    restored: async (point, use) => {
      const output = join(lab.dir, `restored-${name}`);
      await expectCli(0, ['restore', '--target', target, '--point', point, '--output', output]);
      await use(disks.map((disk) => join(output, `${disk.target}.qcow2`)));
      await rm(output, { recursive: true });
    },
  };
}

describe('a real guest that writes all the time', () => {
  it('is backed up by overlays: every point is a clean file system, the source is its image and one overlay', async () => {
    const vm = await writingDomain('writer');
    const { domain, disks } = vm;
    const tracked = ['--track', 'overlay', '--overlay-dir', vm.overlays];
    const points = [0, 1, 2, 3, 4, 5, 6, 7, 8];
    for (const number of points) {
      const { point, freeze, warnings } = await vm.backup('--quiesce=require', ...tracked);
      expect(point).toMatchObject({ number, level: number === 0 ? 'full' : 'inc', consistency: 'filesystem' });
      expect(textsOf(warnings)).toEqual([]);
      expect(freeze?.fileSystems).toBe(3);
      for (const disk of point.disks) expect(disk.changed).toBeGreaterThan(0);
      for (const { target, file } of disks) {
        const layers = await vm.layersOf(target);
        expect(layers).toHaveLength(2);
        expect(layers[1]).toBe(file);
      }
      for (const mount of MOUNTS) await domain.guest.untilWritten(mount);
    }
    for (const number of points) {
      await vm.restored(String(number), async (images) => {
        for (const image of images) {
          await checkFs(image);
          expect((await checkWrittenFiles(image)).matched).toBeGreaterThan(0);
        }
      });
    }

    // At rest an increment is what the disks are, and so is what is left of them without the overlays.
    await domain.guest.pauseWorkload();
    const had = [];
    for (const mount of MOUNTS) had.push(await domain.guest.fileChecksums(mount));
    const idle = (await vm.backup('--level', 'inc', ...tracked)).point;
    await vm.restored(String(idle.number), async (images) => {
      for (const [index, { target }] of disks.entries()) {
        await flush(domain, target);
        const [top = ''] = await vm.layersOf(target);
        await run('qemu-img', ['compare', '-U', images[index] ?? '', top]);
      }
    });
    await domain.guest.resumeWorkload();
    await expectCli(0, ['--connect', lab.uri, '--domain', 'writer', 'consolidate-source']);
    for (const { target, file } of disks) expect(await vm.layersOf(target)).toEqual([file]);
    for (const mount of MOUNTS) await domain.guest.untilWritten(mount);
    await domain.guest.pauseWorkload();
    const has = [];
    for (const mount of MOUNTS) has.push(await domain.guest.fileChecksums(mount));
    expect(has.map((files) => [...files.keys()].length > 0)).toEqual([true, true, true]);
    expect(had).toHaveLength(3);
    await domain.shutdown();
    // The raw images alone, without us and without QEMU.
    await checkFs(disks[1]?.file ?? '');
    await checkWrittenFiles(disks[1]?.file ?? '');
  });
});

describe('the folder of the overlays gets full', () => {
  const big = 'dd if=/dev/urandom of=/mnt/d2/big bs=1M count=40 conv=fsync';

  it('while a run copies: the run ends, the guest goes on, and all that it wrote is in its own images', async () => {
    const vm = await writingDomain('full');
    const { domain } = vm;
    await domain.guest.pauseWorkload();
    const slow = ['--overlay-dir', small(), '--speed-limit', '4K', '--no-digest'];
    for (const reserve of ['16M', '0']) {
      const args = ['--connect', lab.uri, '--domain', 'full', 'backup', '--target', vm.target, '--level', 'full'];
      const tool = startRun([...args, '--method', 'overlay', ...slow, '--reserve', reserve]);
      await expect
        .poll(async () => (await vm.layersOf('vdb')).length, { timeout: patient(60_000), interval: 200 })
        .toBe(2);
      const written = domain.guest.run(big, { deadlineMs: patient(200_000) });
      // Where the test fails before it is waited for, its guest is ended, and the cause is what failed.
      written.catch(() => undefined);
      if (reserve === '0') {
        const state = async (): Promise<string> => (await lab.virsh(['domstate', domain.uuid, '--reason'])).stdout;
        await expect.poll(state, { timeout: patient(60_000) }).toMatch(/paused \(I\/O error\)/);
        tool.kill('SIGTERM');
        expect((await tool.ended).exitCode).toBe(143);
      } else {
        const { exitCode, stderr } = await tool.ended;
        expect(`${exitCode} ${stderr}`).toMatch(/^1 [^]*the space on the scratch space .* runs out/);
      }
      await written;
      expect(await domain.state()).toBe('running');
      for (const { target, file } of vm.disks) expect(await vm.layersOf(target)).toEqual([file]);
      const [sum] = (await domain.guest.run('sync; sha256sum </mnt/d2/big')).split(' ');
      await domain.guest.run('echo 3 >/proc/sys/vm/drop_caches');
      expect((await domain.guest.run('sha256sum </mnt/d2/big')).split(' ')[0]).toBe(sum);
      await domain.guest.run('rm /mnt/d2/big; sync');
    }
  });
});
