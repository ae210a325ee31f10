import { copyFile, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { anotherUser } from '../support/another-user.js';
import { MiB } from '../support/builders.js';
import {
  expectSame,
  filesIn,
  type Lab,
  makeDisk,
  makeLab,
  photograph,
  pointsOf,
  record,
  rot,
} from '../support/chains.js';
import { expectCli, qmpbackup, startCli } from '../support/cli.js';
import { run } from '../support/lab/programs.js';
import { loopDevice } from '../support/loop-device.js';
import { patient } from '../support/patience.js';

/** What a restore or merge that was killed leaves, and what the next one makes of it. */

async function twoDisks(): Promise<Lab> {
  const lab = await makeLab();
  const steps = (pattern: number) => [
    { file: 'FULL-100.qcow2', io: [`write -P ${pattern} 0 6M`] },
    { file: 'INC-101.qcow2', on: 'FULL-100.qcow2', io: [`write -P 3 ${pattern}M 1M`] },
  ];
  await record(lab, pointsOf(await makeDisk(lab, 'vda', steps(1)), await makeDisk(lab, 'vdb', steps(2))));
  return lab;
}

const newest = (lab: Lab, disk: string): string => lab.flat(disk, 'INC-101.qcow2');

/** Kills a restore that has made the first of the two disks, and is at the second. */
async function killedAtSecond(lab: Lab, output: string, more: readonly string[] = []): Promise<void> {
  const args = ['restore', '--target', lab.target, '--output', output, '--rate-limit', '4M', ...more];
  const child = startCli(args);
  const first = join(output, 'vda.qcow2.partial.json');
  await expect
    .poll(() => readFile(first, 'utf8').catch(() => ''), { timeout: patient(20_000), interval: 20 })
    .toContain('"complete":true');
  child.kill('SIGKILL');
  await child;
}

async function expectRestored(lab: Lab, output: string): Promise<void> {
  for (const disk of ['vda', 'vdb']) await expectSame(join(output, `${disk}.qcow2`), newest(lab, disk));
  expect(await filesIn(output)).toEqual(['machine.json', 'vda.qcow2', 'vdb.qcow2']);
}

it('a finished disk of a restore that was killed is compared and kept', async () => {
  const lab = await twoDisks();
  const output = join(lab.root, 'out');
  await killedAtSecond(lab, output);
  const { ino } = await stat(join(output, 'vda.qcow2.partial'));
  await expectCli(0, ['restore', '--target', lab.target, '--output', output, '--no-verify']);
  expect((await stat(join(output, 'vda.qcow2'))).ino).toBe(ino);
  await expectRestored(lab, output);
  const again = await expectCli(13, ['restore', '--target', lab.target, '--output', output]);
  expect(again.stderr).toContain('vda.qcow2 exists already and is not overwritten');
});

it('one that is wrong by now, or of another point, is made again', async () => {
  const lab = await twoDisks();
  for (const [name, spoil, more] of [
    ['altered', (path: string) => run('qemu-io', ['-f', 'qcow2', '-c', 'write -P 0x99 5M 64k', path]), []],
    ['grown', (path: string) => run('qemu-img', ['resize', '-q', '-f', 'qcow2', path, '+1M']), []],
    ['cut off', (path: string) => run('truncate', ['-s', '300000', path]), []],
    ['older', () => Promise.resolve(), ['--point', '0']],
  ] as const) {
    const output = join(lab.root, name);
    await killedAtSecond(lab, output, more);
    await spoil(join(output, 'vda.qcow2.partial'));
    await expectCli(0, ['restore', '--target', lab.target, '--output', output]);
    await expectRestored(lab, output);
  }
});

it('what was already under its name is kept, unless somebody has worked with it', async () => {
  const lab = await twoDisks();
  const output = join(lab.root, 'out');
  await killedAtSecond(lab, output);
  const restore = ['restore', '--target', lab.target, '--output', output];
  const image = join(output, 'vda.qcow2');
  const told = `${image}.partial.json`;
  await copyFile(told, join(lab.root, 'told'));
  // As where it was killed between the first name and the last.
  await rename(`${image}.partial`, image);
  await run('qemu-io', ['-f', 'qcow2', '-c', 'write -P 0x99 5M 64k', image]);
  const refused = await expectCli(13, restore);
  expect(refused.stderr).toContain('vda.qcow2 is there since a restore that was killed, and has been changed since');
  expect(await filesIn(output)).toEqual(['vda.qcow2']);
  await run('qemu-io', ['-f', 'qcow2', '-c', 'write -P 1 5M 64k', image]);
  await copyFile(join(lab.root, 'told'), told);
  // What fails beside it leaves it for the next one.
  const broken = join(lab.folder('vdb'), 'FULL-100.qcow2');
  await run('cp', ['-a', broken, join(lab.root, 'whole')]);
  await rot(broken);
  await expectCli(4, restore);
  expect(await filesIn(output)).toEqual(['vda.qcow2', 'vda.qcow2.partial.json']);
  await run('cp', ['-a', join(lab.root, 'whole'), broken]);
  await copyFile(join(lab.root, 'told'), told);
  const { ino } = await stat(image);
  await expectCli(0, restore);
  expect((await stat(image)).ino).toBe(ino);
  await expectRestored(lab, output);
  // As where it was killed when all was done.
  await copyFile(join(lab.root, 'told'), told);
  await expectCli(13, restore);
  await expectRestored(lab, output);
});

it('nobody takes the place of a restore that is at work, and nothing else is taken for ours', async () => {
  const lab = await twoDisks();
  const output = join(lab.root, 'out');
  const other = join(lab.root, 'other');
  await run('cp', ['-a', lab.target, other]);
  const child = startCli(['restore', '--target', lab.target, '--output', output, '--rate-limit', '4M']);
  await expect.poll(() => filesIn(output).catch(() => []), { timeout: patient(20_000) }).toHaveLength(4);
  const refused = await expectCli(11, ['restore', '--target', other, '--output', output]);
  expect(refused.stderr).toMatch(new RegExp(`vda.qcow2 is being written: restore into ${output} \\(pid ${child.pid} `));
  child.kill('SIGINT');
  expect((await child).exitCode).toBe(130);
  await expect(stat(output)).rejects.toThrow('ENOENT');
  const image = join(lab.root, 'one.qcow2');
  const merge = ['merge', '--target', lab.target, '--disk', 'vda', '--targetfile', image];
  await writeFile(`${image}.partial`, 'precious');
  await expectCli(13, merge);
  expect(await readFile(`${image}.partial`, 'utf8')).toBe('precious');
  await rm(`${image}.partial`);
  await writeFile(`${image}.partial.json`, '');
  await expectCli(0, merge);
  expect((await filesIn(lab.root)).filter((name) => name.startsWith('one'))).toEqual(['one.qcow2']);
});

it('killed at any moment it leaves nothing that the next one does not clear, and never changes the backup', async () => {
  const lab = await twoDisks();
  const before = await photograph(lab.target);
  const device = await loopDevice(join(lab.root, 'device'), 17 * MiB);
  const output = join(lab.root, 'out');
  const whole = ['restore', '--target', lab.target, '--output', output];
  const merge = ['merge', '--target', lab.target, '--disk', 'vda', '--targetfile', join(output, 'vda.qcow2')];
  const onDevice = [...whole, '--to', `vda=${device}`, '--overwrite'];
  const started = performance.now();
  await expectCli(0, whole);
  const took = performance.now() - started;
  await rm(output, { recursive: true });
  for (let turn = 0; turn < 21; turn += 1) {
    const args = [whole, merge, onDevice][turn % 3] ?? whole;
    const child = startCli(args);
    await sleep(took * (0.2 + 0.8 * Math.random()));
    child.kill('SIGKILL');
    await child;
    const next = await qmpbackup(args);
    // It may have been done already.
    expect([0, 13]).toContain(next.exitCode);
    if (next.exitCode === 13) expect(next.stderr).toContain('exists already');
    const done =
      args === whole
        ? ['machine.json', 'vda.qcow2', 'vdb.qcow2']
        : args === merge
          ? ['vda.qcow2']
          : ['machine.json', 'vdb.qcow2'];
    expect(await filesIn(output)).toEqual(done);
    for (const name of done.filter((each) => each.endsWith('.qcow2'))) {
      await expectSame(join(output, name), newest(lab, name.slice(0, 3)));
    }
    if (args === onDevice) await run('cmp', ['-n', String(16 * MiB), device, newest(lab, 'vda')]);
    await rm(output, { recursive: true });
  }
  expect(await photograph(lab.target)).toEqual(before);
});

it('another user gives nothing away, and restores for himself', async () => {
  const lab = await twoDisks();
  await run('chmod', ['-R', 'a+rX', lab.root]);
  const nobody = await anotherUser(lab.root);
  const restore = ['restore', '--target', lab.target];
  const output = join(nobody.home, 'a');
  const refused = await nobody.run([...restore, '--output', output, '--owner', 'root']);
  expect([refused.exitCode, refused.stderr]).toEqual([13, expect.stringContaining('only root can give files to root')]);
  expect((await nobody.run([...restore, '--output', output, '--owner', 'nobody'])).exitCode).toBe(0);
  await expectRestored(lab, output);
  const device = await loopDevice(join(lab.root, 'device'), 17 * MiB);
  const denied = await nobody.run([...restore, '--disk', 'vda', '--to', `vda=${device}`, '--overwrite']);
  expect([denied.exitCode, denied.stderr]).toEqual([13, expect.stringMatching(/cannot write to .*ermission denied/)]);
});
