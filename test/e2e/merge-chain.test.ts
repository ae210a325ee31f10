import { readFile, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { describe, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { expectCli, PROGRAM, qmpbackup } from '../support/cli.js';
import { compareImages } from '../support/lab/compare.js';
import { flush, write, writeZeroes } from '../support/lab/guest-writes.js';
import { run } from '../support/lab/programs.js';
import { scenario, type Scenario } from '../support/scenario.js';
import { imagesIn } from '../support/target-files.js';

/** FULL and `count` INC of two disks; returns the file names of d1 in their order. */
async function chain(lab: Scenario, count: number): Promise<string[]> {
  await write(lab.vm, 'd1', { offset: 0, length: 24 * MiB, pattern: 0x10 });
  const files = [(await lab.backup('full')).point.disks[0]!.file];
  for (let number = 1; number <= count; number += 1) {
    await write(lab.vm, 'd1', { offset: number * 3 * MiB, length: 2 * MiB, pattern: 0x20 + number });
    await writeZeroes(lab.vm, 'd1', { offset: (number - 1) * MiB, length: MiB / 2 });
    await write(lab.vm, 'd2', { offset: number * MiB, length: MiB, pattern: 0x30 + number });
    files.push((await lab.backup('inc')).point.disks[0]!.file);
  }
  return files;
}

async function expectFullEqualsDisk(lab: Scenario, disk: string, full: string): Promise<void> {
  await flush(lab.vm, disk);
  await compareImages(join(lab.target, disk, full), lab.vm.disk(disk).file!);
}

describe('rebase', () => {
  it('makes the FULL the state of the last INC; the next inc fits on top', async () => {
    const lab = await scenario();
    const [full, ...incs] = await chain(lab, 3);
    const dry = await expectCli(0, ['rebase', '--dir', join(lab.target, 'd1'), '--dry-run']);
    expect(dry.stdout).toContain('would merge');
    expect(await imagesIn(join(lab.target, 'd1'))).toHaveLength(4);
    await expectCli(0, ['rebase', '--dir', join(lab.target, 'd1')]);
    expect(await imagesIn(join(lab.target, 'd1'))).toEqual([full]);
    await expectFullEqualsDisk(lab, 'd1', full!);
    await lab.expectChainEqualsDisks();
    expect(incs).toHaveLength(3);

    await write(lab.vm, 'd1', { offset: 30 * MiB, length: MiB, pattern: 0x77 });
    expect((await lab.backup('inc')).point.disks[0]).toMatchObject({ level: 'inc', changed: MiB });
    await lab.expectChainEqualsDisks();
    await expectCli(0, ['commit', '--dir', join(lab.target, 'd2')]);
    await lab.expectChainEqualsDisks();
    await lab.expectNothingLeft(2);
  });

  it('--until merges a part; every later point is still what it was', async () => {
    const lab = await scenario();
    const files = await chain(lab, 4);
    const output = join(lab.dir, 'before');
    await expectCli(0, ['restore', '--target', lab.target, '--output', output, '--point', '3']);
    await expectCli(0, ['rebase', '--dir', join(lab.target, 'd1'), '--until', files[2]!]);
    expect(await imagesIn(join(lab.target, 'd1'))).toEqual([files[0], files[3], files[4]].sort());
    const again = join(lab.dir, 'after');
    await expectCli(0, ['restore', '--target', lab.target, '--output', again, '--point', '3']);
    for (const disk of ['d1', 'd2']) await compareImages(join(output, `${disk}.qcow2`), join(again, `${disk}.qcow2`));
    await lab.expectChainEqualsDisks();
    const gone = await qmpbackup(['restore', '--target', lab.target, '--output', join(lab.dir, 'x'), '--point', '1']);
    expect(gone.exitCode).toBe(13);
    expect(gone.stderr).toContain('merged');
  });

  it('does not follow a link that stands for the folder of a disk', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    await lab.backup('full');
    await symlink(join(lab.target, 'd1'), join(lab.target, 'link'));
    const refused = await qmpbackup(['rebase', '--dir', join(lab.target, 'link')]);
    expect(refused).toMatchObject({ exitCode: 13 });
    expect(refused.stderr).toContain('is a symbolic link');
  });

  it('killed at any moment and run again ends in the same bytes', async () => {
    const lab = await scenario();
    const [full] = await chain(lab, 3);
    const args = [PROGRAM, 'rebase', '--dir', join(lab.target, 'd1'), '--rate-limit', '8M'];
    for (const delay of [250, 500, 900, 1300]) {
      const child = execa(process.execPath, args, { reject: false, detached: true });
      await sleep(delay);
      // The whole group: a power cut ends qemu-img too.
      if (child.pid !== undefined && child.exitCode === null) process.kill(-child.pid, 'SIGKILL');
      await child;
    }
    await expectCli(0, ['rebase', '--dir', join(lab.target, 'd1')]);
    expect(await imagesIn(join(lab.target, 'd1'))).toEqual([full]);
    await expectFullEqualsDisk(lab, 'd1', full!);
    expect((await lab.backup('inc')).point.disks[0]).toMatchObject({ level: 'inc' });
    await lab.expectChainEqualsDisks();
  });
});

describe('restore and merge', () => {
  it('any point comes back as it was, with a description of the machine', async () => {
    const lab = await scenario();
    await write(lab.vm, 'd1', { offset: 0, length: MiB, pattern: 0x11 });
    await lab.backup('full');
    await flush(lab.vm, 'd1');
    const then = join(lab.dir, 'then.qcow2');
    await run('qemu-img', ['convert', '-U', '-O', 'qcow2', lab.vm.disk('d1').file!, then]);
    await write(lab.vm, 'd1', { offset: 0, length: 2 * MiB, pattern: 0x12 });
    await lab.backup('inc');
    const output = join(lab.dir, 'out');
    await expectCli(0, ['restore', '--target', lab.target, '--output', output, '--point', '0', '--disk', 'd1']);
    await compareImages(join(output, 'd1.qcow2'), then);
    const machine = JSON.parse(await readFile(join(output, 'machine.json'), 'utf8')) as object;
    expect(machine).toMatchObject({ name: 'vm', qemuVersion: expect.any(String) as string });
    await expectCli(13, ['restore', '--target', lab.target, '--output', output, '--point', '0', '--disk', 'd1']);

    const file = join(lab.dir, 'merged.qcow2');
    await expectCli(0, ['merge', '--dir', join(lab.target, 'd1'), '--targetfile', file]);
    await flush(lab.vm, 'd1');
    await compareImages(file, lab.vm.disk('d1').file!);
    await lab.expectChainEqualsDisks();
  });
});
