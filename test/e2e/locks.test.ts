import { readdir, readFile, rm, symlink } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { vmLockFolder } from '../../src/repository/vm-lock-folder.js';
import { MiB } from '../support/builders.js';
import { expectCli } from '../support/cli.js';
import { createImage } from '../support/lab/disk-images.js';
import { write } from '../support/lab/guest-writes.js';
import { startQemu, type Vm } from '../support/lab/qemu.js';
import { lockFromElsewhere } from '../support/lock-elsewhere.js';
import { type RunningBackup, startBackup, untilConcluded, untilCopying } from '../support/running-backup.js';
import { afterTest, type BackupAnswer, scenario, type Scenario } from '../support/scenario.js';

// One run at a time on one VM and on one target. Whoever comes second ends at once and says who holds it, changes
// nothing, and the first run goes on as if nothing had been.

describe('two runs at a time on one VM', () => {
  it('the second ends with code 11 and names the first, however the socket is spelled', async () => {
    const { lab, run } = await withSlowBackup();
    const link = join(lab.dir, 'link.sock');
    await symlink(lab.vm.socket, link);
    const folder = join(lab.dir, 'folder');
    await symlink(dirname(lab.vm.socket), folder);
    for (const socket of [lab.vm.socket, link, `unix:${folder}/../vm/qmp.sock`, join(folder, 'qmp.sock')]) {
      await expectLocked(run, ['--socket', socket, 'backup', '--level', 'auto', '--target', join(lab.dir, 'other')]);
    }
    await expectLocked(run, ['--socket', lab.vm.socket, 'cleanup', '--remove-bitmaps']);
    await expectLocked(run, [
      '--socket',
      lab.vm.socket,
      'backup',
      '--level',
      'full',
      '--target',
      lab.target,
      '--break-lock',
    ]);
    expect(await readdir(lab.dir)).not.toContain('other');
    await expectFinished(lab, run);
  });

  it('the second ends with code 11 also through another monitor of the same VM', async () => {
    const uuid = '5f0c2b6e-7d0a-4f0e-9a55-3b6f2d1c8e77';
    const lab = await scenario([{ id: 'd1' }], { uuid, monitors: { tcp: true } });
    await write(lab.vm, 'd1', { offset: 0, length: 8 * MiB, pattern: 0x11 });
    const run = startBackup(lab, 'full', '--speed-limit', '1M');
    await untilCopying(lab, run, 1);
    const other = ['--target', join(lab.dir, 'other')];
    await expectLocked(run, ['--socket', `tcp:127.0.0.1:${lab.vm.tcpPort}`, 'backup', '--level', 'full', ...other]);
    run.kill('SIGTERM');
    expect((await run.ended).exitCode).toBe(143);
  });

  it('of several that start together one makes its point, and each of the others ends with 0 or 11', async () => {
    const lab = await withFull();
    const runs = Array.from({ length: 4 }, () => startBackup(lab, 'inc'));
    const endings = await Promise.all(runs.map(({ ended }) => ended));
    const done = endings.filter(({ exitCode }) => exitCode === 0);
    expect(done.length).toBeGreaterThan(0);
    expect(endings.filter(({ exitCode }) => exitCode === 11)).toHaveLength(endings.length - done.length);
    expect(await pointsOf(lab)).toHaveLength(1 + done.length);
    await lab.expectChainEqualsDisks();
    await expectNoLocks(lab);
  });
});

describe('two VMs on one target', () => {
  it('the second ends with code 11 and names the first, however the target is spelled', async () => {
    const { lab, run } = await withSlowBackup();
    const other = await anotherVm(lab);
    const link = join(lab.dir, 'link');
    await symlink(lab.target, link);
    for (const target of [lab.target, link, `${lab.dir}/./target/`]) {
      await expectLocked(run, ['--socket', other.socket, 'backup', '--level', 'full', '--target', target]);
    }
    expect(await other.control.execute('query-jobs')).toEqual([]);
    await expectFinished(lab, run);
  });
});

describe('the owner of a lock', () => {
  it('was killed: the next run takes its locks at once', async () => {
    const { lab, run } = await withSlowBackup();
    run.kill('SIGKILL');
    await run.ended;
    // Of the target, of the monitor and of the QEMU process.
    expect(await locksOf(lab)).toHaveLength(3);
    expect((await lab.backup('inc')).point).toMatchObject({ number: 1, level: 'inc' });
    await lab.expectChainEqualsDisks();
    await lab.expectNothingLeft(2);
    await expectNoLocks(lab);
  });

  it('was killed: a run of another VM may not use its target, but is not held up by the lock', async () => {
    const { lab, run } = await withSlowBackup();
    const other = await anotherVm(lab);
    run.kill('SIGKILL');
    await run.ended;
    const refused = ['--socket', other.socket, 'backup', '--level', 'full', '--target', lab.target];
    const { stderr } = await expectCli(13, refused);
    expect(stderr).toContain('cannot be used for this VM');
    expect((await lab.backup('inc')).point).toMatchObject({ number: 1, level: 'inc' });
    await expectNoLocks(lab);
  });

  it('was stopped: it is not robbed, and ends well when it goes on', async () => {
    const { lab, run } = await withSlowBackup();
    run.kill('SIGSTOP');
    const second = ['--socket', lab.vm.socket, 'backup', '--level', 'inc', '--target', lab.target];
    await expectLocked(run, second);
    const { stderr } = await expectLocked(run, [...second, '--break-lock']);
    expect(stderr).toContain('--break-lock does not take it from a live run');
    run.kill('SIGCONT');
    await expectFinished(lab, run);
  });

  it('is on another host: only --break-lock takes the lock', async () => {
    const lab = await withFull();
    await lockFromElsewhere(lab.target);
    const refused = ['--socket', lab.vm.socket, 'backup', '--level', 'inc', '--target', lab.target];
    const { stderr } = await expectCli(11, refused);
    expect(stderr).toContain(`is locked by backup of tcp:vm:4444 (pid 1 on not-${hostname()}`);
    expect((await lab.backup('inc', '--break-lock')).point).toMatchObject({ number: 1 });
    await expectNoLocks(lab);
  });

  it('loses its lock to somebody who deletes it: it ends, and no point counts', async () => {
    const { lab, run } = await withSlowBackup();
    await rm(join(lab.target, '.lock'), { recursive: true });
    const ending = await run.ended;
    expect(ending).toMatchObject({ exitCode: 11 });
    expect(ending.stderr).toContain(`the lock of the target ${lab.target} was lost`);
    expect(await pointsOf(lab)).toHaveLength(1);
    await lab.expectNothingLeft(1);
    expect((await lab.backup('inc')).point).toMatchObject({ number: 1, level: 'inc' });
    await lab.expectChainEqualsDisks();
  });
});

it('list needs no lock: it shows what is sealed while a backup runs', async () => {
  const { lab, run } = await withSlowBackup();
  expect(await pointsOf(lab)).toHaveLength(1);
  expect(run.running()).toBe(true);
  await expectFinished(lab, run);
  expect(await pointsOf(lab)).toHaveLength(2);
});

// --- set-up ------------------------------------------------------------------------------------------------------------

async function withFull(): Promise<Scenario> {
  const lab = await scenario([{ id: 'd1' }]);
  await write(lab.vm, 'd1', { offset: 0, length: 4 * MiB, pattern: 0x11 });
  await lab.backup('full');
  await expectNoLocks(lab);
  await write(lab.vm, 'd1', { offset: 2 * MiB, length: 16 * MiB, pattern: 0x12 });
  return lab;
}

/** An INC that would take 16 s, seen copying. */
async function withSlowBackup(): Promise<{ readonly lab: Scenario; readonly run: RunningBackup }> {
  const lab = await withFull();
  const run = startBackup(lab, 'inc', '--speed-limit', '1M');
  await untilCopying(lab, run, 1);
  return { lab, run };
}

async function anotherVm(lab: Scenario): Promise<Vm> {
  const file = join(lab.dir, 'other.qcow2');
  await createImage({ file, format: 'qcow2', size: MiB });
  const vm = await startQemu({ dir: join(lab.dir, 'vm2'), name: 'other', disks: [{ id: 'd1', file }] });
  afterTest(() => vm.kill());
  return vm;
}

/** Ends with code 11 while `holder` still runs, and names it. */
async function expectLocked(holder: RunningBackup, args: readonly string[]): Promise<{ readonly stderr: string }> {
  const result = await expectCli(11, args);
  expect(result.stderr).toMatch(
    new RegExp(`is locked by backup (of|into) \\S+ \\(pid ${holder.pid} on ${hostname()}, since 2`),
  );
  expect(holder.running()).toBe(true);
  return result;
}

/** The first run makes its point after all, and leaves no lock. */
async function expectFinished(lab: Scenario, run: RunningBackup): Promise<void> {
  await untilConcluded(lab.vm);
  const ending = await run.ended;
  expect(ending).toMatchObject({ exitCode: 0 });
  expect((JSON.parse(ending.stdout) as BackupAnswer).point).toMatchObject({ number: 1, level: 'inc' });
  await lab.expectChainEqualsDisks();
  await lab.expectNothingLeft(2);
  await expectNoLocks(lab);
}

async function pointsOf(lab: Scenario): Promise<readonly unknown[]> {
  const answer = await expectCli(0, ['--json', 'list', '--target', lab.target]);
  return answer.json<{ targets: { points: unknown[] }[] }>().targets[0]!.points;
}

/** Records of locks that have to do with this lab, in the target and in the folder for VMs, and their remains. */
async function locksOf(lab: Scenario): Promise<readonly string[]> {
  const found = (await readdir(lab.target))
    .filter((name) => name.startsWith('.lock'))
    .map((name) => join(lab.target, name));
  const folder = await vmLockFolder();
  for (const name of await readdir(folder)) {
    const texts = await recordsIn(join(folder, name));
    if (texts.some((text) => text.includes(lab.dir))) found.push(join(folder, name));
  }
  return found;
}

/** The folder is shared with all runs on this host, so a lock may go while we look at it. */
async function recordsIn(lock: string): Promise<readonly string[]> {
  try {
    return await Promise.all((await readdir(lock)).map((record) => readFile(join(lock, record), 'utf8')));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

async function expectNoLocks(lab: Scenario): Promise<void> {
  expect(await locksOf(lab)).toEqual([]);
}
