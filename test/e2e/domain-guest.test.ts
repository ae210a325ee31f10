import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { expectCli } from '../support/cli.js';
import { checkFs, checkWrittenFiles } from '../support/lab/compare.js';
import { makeExt4 } from '../support/lab/disk-images.js';
import { type LibvirtLab, startLibvirt } from '../support/lab/libvirt.js';

const MiB = 1024 * 1024;

let lab: LibvirtLab;
beforeAll(async () => {
  lab = await startLibvirt();
});
afterAll(async () => {
  await lab.close();
});

describe('a real guest that writes all the time', () => {
  it('is frozen for a moment, and its points are clean file systems with its files', async () => {
    const dir = join(lab.dir, 'images');
    const disks = ['vda', 'vdb'].map((target, index) => ({
      target,
      file: join(dir, `guest-${target}.qcow2`),
      label: `DATA${index + 1}`,
    }));
    for (const { file, label } of disks) await makeExt4({ file, label, format: 'qcow2', size: 64 * MiB });
    const domain = await lab.define({
      name: 'writer',
      disks: disks.map(({ target, file }) => ({ target, file })),
      guest: { workload: ['writer'] },
    });
    await domain.start();
    await domain.guest.waitForWorkload('writer');
    const target = join(lab.dir, 'target-writer');
    const vm = ['--json', '--connect', lab.uri, '--domain', 'writer'];
    const points = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
    for (const number of points) {
      const answer = await expectCli(0, [...vm, 'backup', '--level', 'auto', '--quiesce=require', '--target', target]);
      const { point, freeze } = answer.json<{
        point: { number: number; level: string; consistency: string };
        freeze: { fileSystems: number };
      }>();
      expect(point).toMatchObject({ number, level: number === 0 ? 'full' : 'inc', consistency: 'filesystem' });
      expect(freeze.fileSystems).toBeGreaterThan(0);
      await sleep(300);
    }
    for (const number of points) {
      const output = join(lab.dir, `writer-${number}`);
      await expectCli(0, ['restore', '--target', target, '--point', String(number), '--output', output]);
      for (const disk of disks) {
        const image = join(output, `${disk.target}.qcow2`);
        await checkFs(image);
        expect((await checkWrittenFiles(image)).matched).toBeGreaterThan(0);
      }
      await rm(output, { recursive: true });
    }
    expect(await domain.guest.isFrozen('/mnt/d1')).toBe(false);
    await domain.destroy();
  });
});
