import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { smallestVhd } from '../../src/core/smallest-vhd.js';
import { MiB } from '../support/builders.js';
import { expectCli, qmpbackup } from '../support/cli.js';
import { crashCli } from '../support/crash-point.js';
import { flush, write } from '../support/lab/guest-writes.js';
import { migrate, migrationOf, startDestination, statusOf, takeDisks } from '../support/lab/migration.js';
import { run as runProgram } from '../support/lab/programs.js';
import { leavingNoTrace } from '../support/refusal.js';
import { startBackup, untilCopying } from '../support/running-backup.js';
import { afterTest, type Scenario, withFull, writeBoth } from '../support/scenario.js';

const backupOf = (lab: Scenario, ...more: string[]): string[] => [
  ...['--socket', lab.vm.socket, 'backup', '--level', 'auto', '--target', lab.target],
  ...more,
];

async function destinationOf(lab: Scenario, args: readonly string[] = []) {
  const destination = await startDestination(lab.vm, join(lab.dir, 'there'), args);
  afterTest(() => destination.vm.kill());
  return destination;
}

/** The guest goes on in the other QEMU, which is the VM of the scenario from then on. */
async function moveTo(lab: Scenario, { vm, uri }: Awaited<ReturnType<typeof destinationOf>>): Promise<void> {
  expect(await migrate(lab.vm, uri)).toBe('completed');
  await takeDisks(vm);
  await lab.vm.stop();
  lab.vm = vm;
}

const isRefused = { exitCode: 13, stderr: expect.stringMatching(/^error: the VM [^]*^hint: /m) as string };

describe('a VM whose disks are not its own', () => {
  it.each(['never', 'always'])(
    'is refused after it was migrated away, and so are repairs (--fleece %s)',
    async (fleece) => {
      const lab = await withFull();
      await writeBoth(lab, 3, 0x22);
      const there = await destinationOf(lab);
      expect(await migrate(lab.vm, there.uri)).toBe('completed');
      await takeDisks(there.vm);
      await write(there.vm, 'd1', { offset: 20 * MiB, length: 4 * MiB, pattern: 0x77 });
      const before = await readdir(lab.target, { recursive: true });
      for (const more of [[], ['--dry-run']]) {
        expect(await qmpbackup(backupOf(lab, '--fleece', fleece, ...more))).toMatchObject(isRefused);
      }
      expect(await qmpbackup(['--socket', lab.vm.socket, 'recover', '--target', lab.target])).toMatchObject(isRefused);
      expect(await qmpbackup(['--socket', lab.vm.socket, 'cleanup', '--remove-bitmaps'])).toMatchObject(isRefused);
      const doctor = await qmpbackup(['--socket', lab.vm.socket, 'doctor', '--target', lab.target]);
      expect(doctor).toMatchObject({
        exitCode: 1,
        stdout: expect.stringMatching(/^error +VM: it was migrated away/m) as string,
      });
      expect(await readdir(lab.target, { recursive: true })).toEqual(before);
      // Where the guest is now the chain goes on, for the bitmaps went with the images.
      await lab.vm.stop();
      lab.vm = there.vm;
      expect((await lab.backup('inc', '--fleece', fleece)).point.level).toBe('inc');
      await lab.expectChainEqualsDisks();
    },
  );

  it('is refused while it waits for its guest, and once that is here but another has its disks still', async () => {
    const lab = await withFull();
    const there = await destinationOf(lab);
    await there.vm.control.execute('migrate-set-capabilities', {
      capabilities: [{ capability: 'late-block-activate', state: true }],
    });
    const away = { ...lab, vm: there.vm };
    expect(await statusOf(away.vm)).toBe('inmigrate');
    expect(await qmpbackup(backupOf(away))).toMatchObject(isRefused);
    const doctor = await qmpbackup(['--socket', away.vm.socket, 'doctor']);
    expect(doctor).toMatchObject({
      exitCode: 1,
      stdout: expect.stringMatching(/^error +VM: it waits for an incoming/m) as string,
    });
    expect(await migrate(lab.vm, there.uri)).toBe('completed');
    expect(await statusOf(away.vm)).toMatch(/prelaunch|paused/);
    expect(await qmpbackup(backupOf(away))).toMatchObject({
      ...isRefused,
      stderr: expect.stringContaining('inactive') as string,
    });
  });

  it('is refused while its guest is on its way, and nothing of ours goes in', async () => {
    const lab = await withFull();
    const there = await destinationOf(lab);
    // One that stood still is left in postmigrate by a migration that is cancelled, and refused until it is let go on.
    await lab.vm.control.execute('cont');
    await lab.vm.control.execute('migrate-set-capabilities', {
      capabilities: [{ capability: 'pause-before-switchover', state: true }],
    });
    await lab.vm.control.execute('migrate', { uri: there.uri });
    await expect.poll(() => migrationOf(lab.vm)).toBe('pre-switchover');
    await leavingNoTrace(lab, async () => {
      expect(await qmpbackup(backupOf(lab, '--fleece', 'always'))).toMatchObject(isRefused);
      expect((await qmpbackup(['--socket', lab.vm.socket, 'doctor'])).stdout).toMatch(
        /^error +VM: it is (being migrated|handing its guest over)/m,
      );
    });
    await lab.vm.control.execute('migrate_cancel');
    await expect.poll(() => migrationOf(lab.vm)).toBe('cancelled');
    expect((await lab.backup('inc')).point.level).toBe('inc');
  });

  it('is refused after a snapshot could not be gone back to, until it is let go on', async () => {
    const lab = await withFull();
    await lab.vm.control.execute('cont');
    await lab.vm.control.execute('human-monitor-command', { 'command-line': 'savevm s1' });
    await lab.vm.control.execute('human-monitor-command', { 'command-line': 'loadvm s1' });
    // So 7.2 and 10.0.
    expect(await statusOf(lab.vm)).toBe('restore-vm');
    expect(await qmpbackup(backupOf(lab))).toMatchObject(isRefused);
    await lab.vm.control.execute('cont');
    expect((await lab.backup('inc')).point.level).toBe('inc');
    await expectCli(0, ['--socket', lab.vm.socket, 'cleanup', '--remove-bitmaps']);
    const said = await lab.vm.control.execute('human-monitor-command', { 'command-line': 'loadvm s1' });
    expect(said).toBe('');
  });
});

describe('a migration that is asked for while a backup runs', () => {
  it.each(['never', 'always'])('is refused by QEMU, and the guest goes on here (--fleece %s)', async (fleece) => {
    const lab = await withFull();
    await writeBoth(lab, 0, 0x33, 10);
    const there = await destinationOf(lab);
    await lab.vm.control.execute('cont');
    const run = startBackup(lab, 'inc', '--fleece', fleece, '--speed-limit', '4M');
    await untilCopying(lab, run);
    await expect(migrate(lab.vm, there.uri)).rejects.toThrow(
      /qmpbackup-[0-9a-f]{12}-here.* does not support live migration/,
    );
    expect(await statusOf(lab.vm)).toBe('running');
    await write(lab.vm, 'd1', { offset: 30 * MiB, length: MiB, pattern: 0x44 });
    expect(await run.ended).toMatchObject({ exitCode: 0 });
    await lab.expectNothingLeft(2);
    await lab.vm.control.execute('stop');
    await moveTo(lab, there);
    expect((await lab.backup('inc')).point.level).toBe('inc');
    await lab.expectChainEqualsDisks();
  });

  it('never kills the guest, nor makes a wrong point, whenever it begins', async () => {
    const lab = await withFull();
    for (let round = 0; round < 8; round += 1) {
      await writeBoth(lab, round, 0x40 + round);
      const there = await startDestination(lab.vm, join(lab.dir, `there-${round}`));
      afterTest(() => there.vm.kill());
      const run = startBackup(lab, 'auto', '--fleece', round % 2 === 0 ? 'always' : 'never');
      await sleep(100 + 120 * round);
      const end = await migrate(lab.vm, there.uri).catch((error: unknown) => String(error));
      const { exitCode, stderr } = await run.ended;
      if (end !== 'completed') {
        expect([end, exitCode]).toEqual([expect.stringContaining('does not support live migration'), 0]);
        expect(await statusOf(lab.vm)).toMatch(/^(prelaunch|paused)$/);
        await there.vm.kill();
        continue;
      }
      // It came before the run was in the VM, or after all was done.
      expect([exitCode, stderr]).toEqual([exitCode === 0 ? 0 : 13, stderr]);
      await takeDisks(there.vm);
      await write(there.vm, 'd1', { offset: 40 * MiB, length: MiB, pattern: 0x50 + round });
      await flush(there.vm, 'd1');
      await lab.vm.stop();
      lab.vm = there.vm;
    }
    await lab.backup('auto');
    await lab.expectChainEqualsDisks();
    await lab.expectNothingLeft(2);
  });

  it('is refused also after the run was killed, until the next one or recover', async () => {
    const lab = await withFull();
    await writeBoth(lab, 0, 0x33, 10);
    const there = await destinationOf(lab);
    const run = startBackup(lab, 'inc', '--fleece', 'always', '--speed-limit', '4M');
    await untilCopying(lab, run);
    run.kill('SIGKILL');
    await run.ended;
    await expect(migrate(lab.vm, there.uri)).rejects.toThrow(/does not support live migration/);
    await expectCli(0, ['--socket', lab.vm.socket, 'recover', '--target', lab.target]);
    await moveTo(lab, there);
    expect((await lab.backup('inc')).point.level).toBe('inc');
    await lab.expectChainEqualsDisks();
  });

  it('leaves no file behind where the run is killed while QEMU opens the one that holds the VM', async () => {
    const lab = await withFull();
    await writeBoth(lab, 0, 0x33);
    await crashCli({ when: 'after', call: 'send', matches: /"vpc"/ }, [
      ...['--socket', lab.vm.socket, 'backup', '--level', 'inc', '--target', lab.target],
    ]);
    await lab.backup('inc');
    expect((await readdir(lab.target)).filter((name) => name.startsWith('.'))).toEqual([]);
    await lab.expectNothingLeft(2);
  });
});

describe('a VM that must always be fit for a migration', () => {
  it('is backed up, and never fleeced', async () => {
    const lab = await withFull({ args: ['-only-migratable'] });
    const slow = ['--speed-limit', '100M'];
    const { exitCode, stderr, stdout } = await qmpbackup(['--json', ...backupOf(lab, ...slow)]);
    expect([exitCode, stderr]).toEqual([0, expect.stringContaining('not fleeced: ') as string]);
    expect((JSON.parse(stdout) as { fleecing: object }).fleecing).toMatchObject({ fleece: false });
    const refused = await qmpbackup(backupOf(lab, '--fleece', 'always'));
    expect(refused).toMatchObject({ exitCode: 13, stderr: expect.stringContaining('--only-migratable') as string });
    await lab.expectNothingLeft(2);
    await lab.expectChainEqualsDisks();
  });
});

it('the VHD as small as it gets is one to QEMU', async () => {
  const lab = await withFull();
  const file = join(lab.dir, 'small.vhd');
  await writeFile(file, smallestVhd());
  const { stdout } = await runProgram('qemu-img', ['info', '--output=json', '-f', 'vpc', file]);
  expect(JSON.parse(stdout)).toMatchObject({ format: 'vpc', 'virtual-size': 512 });
});
