import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe as suite, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { expectCli } from '../support/cli.js';
import { write, writeZeroes } from '../support/lab/guest-writes.js';
import { run as runProgram } from '../support/lab/programs.js';
import { commandOf, openRelay } from '../support/qmp-relay.js';
import { expectRefused } from '../support/refusal.js';
import { ourJobs, startBackup, startRun, untilConcluded, untilCopying } from '../support/running-backup.js';
import { afterTest, type DiskSpec, labDir, type Scenario, scenario, withFull, writeBoth } from '../support/scenario.js';

suite('fleecing', () => {
  it('makes the same chain as without, on every kind of disk, and leaves nothing behind', async () => {
    const disks: DiskSpec[] = [
      { id: 'd1' },
      { id: 'd2', via: 'blockdev', throttle: { bytes: 500 * MiB } },
      { id: 'd3', format: 'raw', size: 32 * MiB, interface: 'ide' },
      { id: 'd4', interface: 'scsi', via: 'blockdev' },
      { id: 'd5', interface: 'scsi' },
      { id: 'virtio0', via: 'if' },
    ];
    const lab = await scenario(disks);
    const ids = disks.map(({ id }) => id);
    for (const disk of ids) await write(lab.vm, disk, { offset: 0, length: 8 * MiB, pattern: 1 });
    await lab.backup('full', '--fleece', 'always', '--verify=sample');
    await lab.expectChainEqualsDisks();
    for (let round = 2; round < 4; round += 1) {
      for (const disk of ids) await write(lab.vm, disk, { offset: round * MiB, length: MiB, pattern: round });
      const { point } = await lab.backup('auto', '--fleece', round === 2 ? 'always' : 'never');
      expect(new Set(point.disks.map(({ level }) => level))).toEqual(new Set(['inc']));
      await lab.expectChainEqualsDisks();
      await expectAllGone(lab);
    }
  });

  it('copies what the disk was at the instant, whatever the guest overwrites meanwhile', async () => {
    const lab = await withFull();
    await writeBoth(lab, 0, 0x41, 8);
    const run = startBackup(lab, 'inc', '--fleece', 'always', '--speed-limit', '1M', '--verify');
    await untilCopying(lab, run);
    await writeBoth(lab, 2, 0x42, 10);
    await untilConcluded(lab.vm);
    expect(await run.ended).toMatchObject({ exitCode: 0 });
    // The point is older than what was written meanwhile, which the next one has.
    await expect(lab.expectChainEqualsDisks()).rejects.toThrow(/differ/);
    await expectNextInc(lab, 2);
  });

  it.each([[], ['--verify']])(
    'copies what the guest has zeroed since, in whole clusters and parts of them %j',
    async (...more) => {
      const lab = await scenario([{ id: 'd1' }, { id: 'd2', format: 'raw', size: 64 * MiB }]);
      await writeBoth(lab, 0, 0x41, 16);
      const run = startBackup(lab, 'full', '--fleece', 'always', '--speed-limit', '4M', ...more);
      await untilCopying(lab, run);
      await zeroSome(lab);
      await untilConcluded(lab.vm);
      expect(await run.ended).toMatchObject({ exitCode: 0 });
      const output = join(lab.dir, 'restored');
      await expectCli(0, ['restore', '--target', lab.target, '--output', output]);
      for (const disk of ['d1', 'd2']) {
        const image = join(output, `${disk}.qcow2`);
        const { stdout } = await runProgram('qemu-io', ['-r', '-c', 'read -P 0x41 0 16M', image]);
        expect(stdout).not.toContain('Pattern verification failed');
      }
      await expectNextInc(lab, 1);
    },
  );

  it('finds by --verify what was copied wrongly, where QEMU itself answers wrongly of the instant', async () => {
    const lab = await scenario([{ id: 'd1' }, { id: 'd2', format: 'raw', size: 64 * MiB }]);
    const socket = join(lab.dir, 'relay.sock');
    let changed = false;
    // Without it the jobs of QEMU 7.2 copy zeros in place of what the guest has zeroed since.
    const relay = await openRelay(socket, lab.vm.socket, ({ text }, pass) => {
      const without = text.replaceAll(/,"x-perf":\{[^}]*\}/g, '');
      changed ||= without !== text;
      pass(without);
    });
    afterTest(() => relay.close());
    await writeBoth(lab, 0, 0x41, 16);
    const args = ['--socket', socket, 'backup', '--target', lab.target, '--fleece', 'always', '--speed-limit', '4M'];
    const run = startRun([...args, '--level', 'full', '--verify']);
    await untilCopying(lab, run);
    await zeroSome(lab);
    await untilConcluded(lab.vm);
    const ended = await run.ended;
    expect(ended.exitCode).toBe(changed ? 1 : 0);
    if (changed) expect(ended.stdout).toContain('differs from the disk');
    await expectAllGone(lab);
  });

  it('loses nothing that the guest writes between the filters and the transaction', async () => {
    const lab = await withFull();
    const socket = join(lab.dir, 'relay.sock');
    let held = false;
    const relay = await openRelay(socket, lab.vm.socket, async ({ direction, text }, pass) => {
      if (direction === 'to-qemu' && commandOf(text) === 'transaction' && text.includes('drive-backup')) {
        held = true;
        for (const [offset, pattern] of [
          [1, 0x51],
          [3, 0x52],
        ] as const) {
          await writeBoth(lab, offset, pattern);
          await sleep(500);
        }
      }
      pass();
    });
    afterTest(() => relay.close());
    await writeBoth(lab, 0, 0x41, 8);
    const args = ['--socket', socket, 'backup', '--target', lab.target, '--fleece', 'always', '--level'];
    await expectCli(0, [...args, 'inc']);
    expect(held).toBe(true);
    await expectNextInc(lab, 2);
  });

  it.each(['SIGTERM', 'SIGKILL'] as const)(
    'and a run that ends by %s: the next one takes the filters out',
    async (signal) => {
      const lab = await withFull();
      const { run } = await slowInc(lab);
      run.kill(signal);
      await run.ended;
      if (signal === 'SIGTERM') await expectAllGone(lab, 1);
      await expectNextInc(lab);
    },
  );

  it('and a run into another target that was killed: its filters and scratch images go too', async () => {
    const lab = await withFull();
    const { run } = await slowInc(lab);
    run.kill('SIGKILL');
    await run.ended;
    const other = join(lab.dir, 'other');
    await lab.backup('full', '--target', other);
    expect(await ourJobs(lab.vm)).toEqual([]);
    expect(await scratchIn(lab.dir)).toEqual([]);
    await lab.expectChainEqualsDisks(other);
    await expectNextInc(lab, 1, 3);
  });

  it('and a QEMU that quits in the middle: the next run is incremental', async () => {
    const lab = await withFull();
    const { run } = await slowInc(lab);
    await lab.vm.stop();
    expect(await run.ended).toMatchObject({ exitCode: 1 });
    await lab.restart();
    await expectNextInc(lab);
  });

  it('gives the backup up, not the write of the guest, when the scratch image is full', async () => {
    const lab = await withFull();
    const tiny = await smallFileSystem(12 * MiB);
    const run = startBackup(
      lab,
      'full',
      ...['--fleece', 'always', '--fleece-dir', tiny],
      ...['--reserve', '2M', '--speed-limit', '256K'],
    );
    await untilCopying(lab, run);
    // Throws when a write fails.
    await writeBoth(lab, 0, 0x61, 10);
    const { exitCode, stderr } = await run.ended;
    expect(exitCode).toBe(1);
    expect(stderr).toMatch(/the scratch (image|space).*(was full|runs out)/);
    expect(stderr).toMatch(/hint: No point was made.*--(fleece-dir|reserve)/);
    expect(await readdir(tiny)).toEqual([]);
    await expectNextInc(lab);
  });

  it('is refused where another job runs on a disk, and left out by auto', async () => {
    const lab = await withFull();
    const nodes = (await lab.vm.control.execute('query-block')) as {
      device: string;
      inserted: { 'node-name': string };
    }[];
    const node = nodes.find(({ device }) => device === 'd1')!.inserted['node-name'];
    await runProgram('qemu-img', ['create', '-q', '-f', 'qcow2', join(lab.dir, 'foreign.qcow2'), '64M']);
    await lab.vm.control.execute('drive-backup', {
      device: node,
      'job-id': 'foreign',
      target: join(lab.dir, 'foreign.qcow2'),
      format: 'qcow2',
      mode: 'existing',
      sync: 'full',
      speed: 65536,
      'auto-dismiss': false,
    });
    const args = ['--socket', lab.vm.socket, 'backup', '--target', lab.target, '--level', 'inc'];
    await expectRefused(13, [...args, '--fleece', 'always'], 'another job is running on d1', /hint: .*--fleece never/);
    const auto = await expectCli(0, ['--json', ...args, '--speed-limit', '100M']);
    expect(auto.json<{ fleecing: object }>().fleecing).toMatchObject({ fleece: false });
    await lab.vm.control.execute('block-job-cancel', { device: 'foreign', force: true });
    await sleep(200);
    await lab.vm.control.execute('job-dismiss', { id: 'foreign' });
    await expectNextInc(lab, 2);
  });

  it('says in a dry run whether and why', async () => {
    const lab = await withFull();
    const args = ['--socket', lab.vm.socket, 'backup', '--dry-run', '--level', 'auto', '--target', lab.target];
    expect((await expectCli(0, args)).stdout).toMatch(/without fleecing: the target is local/);
    expect((await expectCli(0, [...args, '--speed-limit', '1M'])).stdout).toMatch(
      /with fleecing: a speed limit is set/,
    );
    expect((await expectCli(0, [...args, '--fleece', 'never'])).stdout).toMatch(/without fleecing: --fleece never/);
    await expectRefused(2, [...args, '--fleece', 'never', '--verify'], /frozen instant/, /hint: /);
    expect(await scratchIn(lab.dir)).toEqual([]);
  });
});

suite('--verify', () => {
  it('fails a run whose point is not the disk, and keeps nothing of it', async () => {
    const lab = await withFull();
    await writeBoth(lab, 0, 0x41, 2);
    // The INC of somebody who loses changes: the bitmap forgets what was written so far.
    await clearBitmaps(lab);
    await writeBoth(lab, 8, 0x42);
    const args = ['--socket', lab.vm.socket, 'backup', '--target', lab.target, '--level', 'inc', '--verify'];
    const { stderr } = await expectCli(1, args);
    expect(stderr).toMatch(/the backup of d[12] differs from the disk/);
    expect(stderr).toMatch(/hint: .*--level full/);
    await expectAllGone(lab, 1);
    await lab.backup('full', '--verify');
    await lab.expectChainEqualsDisks();
    await expectAllGone(lab);
  });

  it('says so when another program uses the NBD server of QEMU, and leaves it to them', async () => {
    const lab = await withFull();
    const path = join(lab.dir, 'theirs.sock');
    await lab.vm.control.execute('nbd-server-start', { addr: { type: 'unix', data: { path } } });
    const args = ['--socket', lab.vm.socket, 'backup', '--target', lab.target, '--level', 'inc', '--verify'];
    expect((await expectCli(1, args)).stderr).toMatch(/NBD server already running/);
    await expectAllGone(lab, 1);
    // Still theirs to stop.
    await lab.vm.control.execute('nbd-server-stop');
    await expectNextInc(lab);
  });
});

async function slowInc(lab: Scenario) {
  await writeBoth(lab, 0, 0x41, 8);
  const run = startBackup(lab, 'inc', '--fleece', 'always', '--speed-limit', '1M');
  await untilCopying(lab, run);
  await writeBoth(lab, 6, 0x42, 4);
  return { run };
}

async function expectNextInc(lab: Scenario, number = 1, bitmaps = 2): Promise<void> {
  await writeBoth(lab, 40, 0x44);
  const { point } = await lab.backup('inc');
  expect(point).toMatchObject({ number, level: 'inc' });
  await lab.expectChainEqualsDisks();
  await expectAllGone(lab, bitmaps);
}

async function expectAllGone(lab: Scenario, bitmaps = 2): Promise<void> {
  await lab.expectNothingLeft(bitmaps);
  expect(await scratchIn(lab.dir)).toEqual([]);
}

async function scratchIn(dir: string): Promise<readonly string[]> {
  return (await readdir(dir, { recursive: true })).filter((name) => name.includes('.scratch'));
}

/** A tmpfs of this size, gone after the test. */
async function smallFileSystem(bytes: number): Promise<string> {
  const folder = join(await labDir(), 'small');
  await mkdir(folder);
  await runProgram('mount', ['-t', 'tmpfs', '-o', `size=${bytes}`, 'tmpfs', folder]);
  afterTest(() => runProgram('umount', ['-l', folder]));
  return folder;
}

async function clearBitmaps(lab: Scenario): Promise<void> {
  const nodes = (await lab.vm.control.execute('query-named-block-nodes', { flat: true })) as {
    'node-name': string;
    'dirty-bitmaps'?: { name?: string }[];
  }[];
  for (const node of nodes) {
    for (const { name } of node['dirty-bitmaps'] ?? []) {
      if (name === undefined) continue;
      await lab.vm.control.execute('block-dirty-bitmap-clear', { node: node['node-name'], name });
    }
  }
}

/** Whole clusters, and parts of them. */
async function zeroSome({ vm }: Scenario): Promise<void> {
  for (const [offset, length] of [
    [8 * MiB, MiB],
    [10 * MiB + 1024, 640 * 1024],
    [12 * MiB, 64 * 1024],
  ] as const) {
    for (const disk of ['d1', 'd2']) await writeZeroes(vm, disk, { offset, length });
  }
}
