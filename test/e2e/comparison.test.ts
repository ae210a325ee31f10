import { randomBytes } from 'node:crypto';
import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { expectCli } from '../support/cli.js';
import { clustersIn, levelsOf } from '../support/comparison.js';
import { compareImages } from '../support/lab/compare.js';
import { flush, write, writeFile as guestWritesFile, writeZeroes } from '../support/lab/guest-writes.js';
import { type BackupAnswer, type DiskSpec, type Scenario, scenario } from '../support/scenario.js';

/** Disks of a VM whose QEMU was killed, or that keep no bitmap, by QMP and while it is off. */
const MiB = 1024 * 1024;
const CLUSTER = 64 * 1024;

async function filled(disks: readonly DiskSpec[]): Promise<Scenario> {
  const lab = await scenario(disks.map((disk) => ({ ...disk, size: 48 * MiB })));
  const content = join(lab.dir, 'content');
  await writeFile(content, randomBytes(2 * MiB));
  for (const { id } of disks) await guestWritesFile(lab.vm, id, { offset: 0, length: 20 * MiB, file: content });
  return lab;
}

const fileOf = (lab: Scenario, disk: string, { point }: BackupAnswer): string =>
  join(lab.target, disk, point.disks.find((each) => each.disk === disk)?.file ?? '');

describe('a disk of a VM that no bitmap tells of', () => {
  it.each([[[]], [['--fleece', 'always', '--verify']], [['--compress']]])(
    'is a qcow2 whose QEMU was killed (%s): QEMU copies it whole, and what differs stays',
    async (more) => {
      const lab = await filled([{ id: 'd1' }, { id: 'd2' }]);
      await lab.backup('auto');
      await write(lab.vm, 'd1', { offset: 2 * MiB, length: CLUSTER, pattern: 0x21 });
      for (const disk of ['d1', 'd2']) await flush(lab.vm, disk);
      await lab.vm.kill();
      await lab.restart();
      await write(lab.vm, 'd1', { offset: 30 * MiB + 5, length: 10, pattern: 0x22 });
      await writeZeroes(lab.vm, 'd2', { offset: 4 * MiB, length: 3 * CLUSTER });
      const second = await lab.backup('auto', ...more);
      expect(levelsOf(second)).toEqual(['d1 inc by comparison', 'd2 inc by comparison']);
      expect(await clustersIn(fileOf(lab, 'd1', second))).toEqual({ data: 2, zero: 0 });
      expect(await clustersIn(fileOf(lab, 'd2', second))).toEqual({ data: 0, zero: 3 });
      await lab.expectChainEqualsDisks();
      await lab.expectNothingLeft(1);
      expect((await readdir(join(lab.target, 'd1'))).filter((name) => name.endsWith('.qcow2'))).toHaveLength(2);
      await write(lab.vm, 'd1', { offset: 31 * MiB, length: CLUSTER, pattern: 0x23 });
      const third = await lab.backup('inc');
      expect(third.point.disks.map(({ changed }) => changed)).toEqual([CLUSTER, 0]);
      await lab.expectChainEqualsDisks();
    },
  );

  it('keeps no bitmap: a raw disk goes on by comparison when QEMU was started again', async () => {
    const lab = await filled([{ id: 'd1', format: 'raw' }]);
    await lab.backup('auto');
    await flush(lab.vm, 'd1');
    await lab.vm.kill();
    await lab.restart();
    await write(lab.vm, 'd1', { offset: 40 * MiB, length: CLUSTER, pattern: 0x31 });
    const dry = await expectCli(0, ['--socket', lab.vm.socket, 'backup', '--target', lab.target, '--dry-run']);
    expect(dry.stdout).toMatch(/d1 .*INC.*compared with FULL-/);
    expect(levelsOf(await lab.backup('auto'))).toEqual(['d1 inc by comparison']);
    await lab.expectChainEqualsDisks();
    await write(lab.vm, 'd1', { offset: 41 * MiB, length: CLUSTER, pattern: 0x32 });
    expect(levelsOf(await lab.backup('auto'))).toEqual(['d1 inc']);
    await lab.expectChainEqualsDisks();
  });

  it('is of a VM that is off', async () => {
    const lab = await filled([{ id: 'd1', format: 'raw' }]);
    const file = lab.vm.options.disks[0]?.file ?? '';
    await lab.backup('auto');
    await write(lab.vm, 'd1', { offset: 7 * MiB, length: CLUSTER, pattern: 0x41 });
    await flush(lab.vm, 'd1');
    await lab.vm.kill();
    const backup = ['--json', 'backup', '--target', lab.target, '--offline', `d1=raw:${file}`];
    const second = (await expectCli(0, backup)).json<BackupAnswer>();
    expect(levelsOf(second)).toEqual(['d1 inc by comparison']);
    expect(await clustersIn(fileOf(lab, 'd1', second))).toEqual({ data: 1, zero: 0 });
    const third = (await expectCli(0, [...backup, '--verify'])).json<BackupAnswer>();
    expect(levelsOf(third)).toEqual(['d1 inc by comparison']);
    expect(third.point.disks[0]?.parent).toBe(second.point.disks[0]?.file);
    const output = join(lab.dir, 'restored');
    await expectCli(0, ['restore', '--target', lab.target, '--output', output]);
    await compareImages(join(output, 'd1.qcow2'), file);
    const full = (await expectCli(0, [...backup, '--full-instead'])).json<BackupAnswer>();
    expect(levelsOf(full)).toEqual(['d1 full']);
    await expectCli(2, [...backup, '--full-instead', '--level', 'inc']);
  });
});
