import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { expectCli } from '../support/cli.js';
import { checkFs, checkWrittenFiles, compareImages } from '../support/lab/compare.js';
import { makeExt4 } from '../support/lab/disk-images.js';
import { flush } from '../support/lab/guest-writes.js';
import { startQemu } from '../support/lab/qemu.js';
import type { BackupAnswer } from '../support/scenario.js';
import { useLibvirt } from '../support/use-libvirt.js';

const MiB = 1024 * 1024;
const MOUNTS = ['/mnt/d1', '/mnt/d2'] as const;

interface Answer extends BackupAnswer {
  readonly freeze: { readonly fileSystems: number } | null;
}

const lab = useLibvirt();

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
    const inc = ['backup', '--level', 'inc', '--target', target];
    const restored = async (number: number, use: (images: string[]) => Promise<void>): Promise<void> => {
      const output = join(lab.dir, `writer-${number}`);
      await expectCli(0, ['restore', '--target', target, '--point', String(number), '--output', output]);
      await use(disks.map((disk) => join(output, `${disk.target}.qcow2`)));
      await rm(output, { recursive: true });
    };
    const points = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
    for (const number of points) {
      const answer = await expectCli(0, [...vm, 'backup', '--level', 'auto', '--quiesce=require', '--target', target]);
      const { point, freeze, warnings } = answer.json<Answer>();
      expect(point).toMatchObject({ number, level: number === 0 ? 'full' : 'inc', consistency: 'filesystem' });
      expect(warnings).toEqual([]);
      expect(freeze?.fileSystems).toBe(2);
      // None of these points is empty, or the test would show nothing.
      for (const disk of point.disks) expect(disk.changed).toBeGreaterThan(0);
      for (const mount of MOUNTS) await domain.guest.untilWritten(mount);
    }
    for (const number of points) {
      await restored(number, async (images) => {
        for (const image of images) {
          await checkFs(image);
          expect((await checkWrittenFiles(image)).matched).toBeGreaterThan(0);
        }
      });
    }
    for (const mount of MOUNTS) expect(await domain.guest.isFrozen(mount)).toBe(false);

    // At rest: a quiesced point boots with the files that the guest has, and an increment is what the disks are.
    await domain.guest.pauseWorkload();
    const had = [await domain.guest.fileChecksums(MOUNTS[0]), await domain.guest.fileChecksums(MOUNTS[1])];
    const rehearsed = (await expectCli(0, [...vm, ...inc, '--quiesce=require', '--dry-run'])).json<Answer>();
    expect(rehearsed.warnings).toEqual([]);
    const quiet = (await expectCli(0, [...vm, ...inc, '--quiesce=require'])).json<Answer>().point;
    const idle = (await expectCli(0, [...vm, ...inc])).json<Answer>().point;
    for (const disk of disks) await flush(domain, disk.target);
    await restored(idle.number, async (images) => {
      for (const [index, { file }] of disks.entries()) await compareImages(images[index]!, file);
      // Without a freeze even a guest at rest leaves a journal to replay: checkFs does tell the two apart.
      await expect(checkFs(images[0]!)).rejects.toThrow(/journal/);
    });
    await domain.destroy();
    await restored(quiet.number, async ([first, second]) => {
      const twin = await startQemu({
        dir: join(lab.dir, 'twin'),
        disks: [
          { id: 'd1', file: first! },
          { id: 'd2', file: second! },
        ],
        guest: true,
      });
      try {
        expect([await twin.guest.fileChecksums(MOUNTS[0]), await twin.guest.fileChecksums(MOUNTS[1])]).toEqual(had);
      } finally {
        await twin.kill();
      }
    });
  });
});
