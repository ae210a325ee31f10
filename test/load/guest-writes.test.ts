import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { run as qmp } from '../../src/qmp/commands.js';
import { MiB } from '../support/builders.js';
import { expectCli } from '../support/cli.js';
import { compareImages } from '../support/lab/compare.js';
import { createImage } from '../support/lab/disk-images.js';
import { type FloodReport, takeFlood } from '../support/lab/flood.js';
import { flush } from '../support/lab/guest-writes.js';
import { makeLabDir } from '../support/lab/programs.js';
import { type GuestVm, startQemu } from '../support/lab/qemu.js';
import { mountHanging, mountSmall } from '../support/mounts.js';
import { ourJobs, startBackup, untilCopying } from '../support/running-backup.js';
import type { BackupAnswer } from '../support/scenario.js';

/**
 * A guest that writes to both of its disks as fast as it goes, while the target of its backup gets full or hangs: none
 * of its writes fails, and none waits for more than a second. One guest serves all tests; each has a target of its own.
 */
const DISKS = ['d1', 'd2'] as const;
const RESERVE = 48 * MiB;

interface Answer extends BackupAnswer {
  readonly pausedMs: number | null;
}

describe('a guest that writes as fast as it goes', () => {
  let dir = '';
  let vm: GuestVm;

  beforeAll(async () => {
    dir = await makeLabDir();
    const disks = DISKS.map((id, index) => ({
      id,
      file: join(dir, `${id}.qcow2`),
      ...(index === 1 && { via: 'blockdev' as const }),
    }));
    for (const { file } of disks) await createImage({ file, format: 'qcow2', size: 32 * MiB });
    vm = await startQemu({ dir: join(dir, 'vm'), name: 'flood', disks, guest: { workload: ['flood'] } });
    await vm.guest.waitForWorkload('flood');
  });
  afterAll(async () => {
    await vm?.kill();
    await rm(dir, { recursive: true, force: true });
  });

  const backup = async (target: string, level: string, ...more: string[]): Promise<Answer> => {
    const args = ['--json', '--socket', vm.socket, 'backup', '--level', level, '--target', target];
    return (await expectCli(0, [...args, '--reserve', String(RESERVE), ...more])).json<Answer>();
  };

  /** A FULL, and then time for the guest to change much of its disks. */
  const fullAndChanges = async (target: string): Promise<void> => {
    await backup(target, 'full');
    await sleep(2_000);
  };

  /** An INC that would take half a minute, seen copying. */
  const slowInc = async (target: string, ...more: readonly string[]) => {
    const lab = { vm, target };
    const run = startBackup(lab, 'inc', '--speed-limit', '1M', ...more);
    await untilCopying(lab, run);
    return run;
  };

  /** Does `step` and requires that no write of the guest failed, nor waited for much longer than it does anyway. */
  const unnoticedByGuest = async (what: string, step: () => Promise<void>): Promise<void> => {
    await takeFlood(vm.guest);
    await sleep(2_000);
    const control = await takeFlood(vm.guest);
    const troubles = vm.control.events(['BLOCK_IO_ERROR', 'STOP']);
    await step();
    const seen = await takeFlood(vm.guest);
    say(what, seen, control);
    expect(seen.errors).toEqual([]);
    expect(seen.writes).toBeGreaterThan(0);
    expect(seen.longestMs).toBeLessThanOrEqual(1_000 + 2 * control.longestMs);
    troubles.close();
    for await (const event of troubles) expect(event.event).not.toBe('BLOCK_IO_ERROR');
  };

  /** The next run is incremental while the guest writes on; with the guest at rest, the chain is what the disks are. */
  const expectGoesOn = async (target: string): Promise<void> => {
    const { point } = await backup(target, 'auto');
    expect(point).toMatchObject({ number: 1, level: 'inc', disks: [{ level: 'inc' }, { level: 'inc' }] });
    await vm.guest.pauseWorkload();
    await backup(target, 'inc');
    const output = join(dir, 'restored');
    await expectCli(0, ['restore', '--target', target, '--output', output]);
    for (const id of DISKS) {
      await flush(vm, id);
      await compareImages(join(output, `${id}.qcow2`), vm.disk(id).file!);
    }
    await rm(output, { recursive: true });
    await vm.guest.resumeWorkload();
    await expectNothingLeft(target);
  };

  /** No job, node, scratch image or journal of ours; of each disk's bitmaps those of its latest file and latest FULL. */
  const expectNothingLeft = async (target: string, bitmapsPerDisk = 2): Promise<void> => {
    expect(await ourJobs(vm)).toEqual([]);
    const nodes = await qmp(vm.control, 'query-named-block-nodes', { flat: true });
    expect(nodes.filter((node) => node['node-name']?.startsWith('qmpbackup'))).toEqual([]);
    const { targetId } = JSON.parse(await readFile(join(target, 'catalog.json'), 'utf8')) as { targetId: string };
    const bitmaps = nodes.flatMap((node) => (node['dirty-bitmaps'] ?? []).map(({ name }) => name ?? ''));
    expect(bitmaps.filter((name) => name.startsWith(`qmpbackup-${targetId}-`))).toHaveLength(
      bitmapsPerDisk * DISKS.length,
    );
    const files = await readdir(dir, { recursive: true });
    expect(files.filter((file) => /\.scratch|\.partial$|run\.json|\.lock/.test(file))).toEqual([]);
  };

  it.each([
    { way: 'without fleecing', options: ['--fleece', 'never'], fleeces: false },
    { way: 'with fleecing, as the speed limit asks for', options: ['--fleece', 'auto'], fleeces: true },
  ])('does not notice a target that somebody else fills, $way', async ({ way, options, fleeces }) => {
    const target = join(dir, fleeces ? 'filled-fleeced' : 'filled');
    const small = await mountSmall(target, 320 * MiB);
    await fullAndChanges(target);
    await unnoticedByGuest(`the target fills, ${way}`, async () => {
      const run = await slowInc(target, '--reserve', String(RESERVE), ...options);
      expect(await scratchFolders(dir)).toHaveLength(fleeces ? 1 : 0);
      await small.fillBut(RESERVE - MiB);
      const ending = await run.ended;
      expect(ending).toMatchObject({ exitCode: 1 });
      expect(ending.stderr).toMatch(/the space on the target \S+ runs out: \d.* are left, 48\.0 MiB have to stay free/);
      expect(ending.stderr).toMatch(/hint: .*no change is lost.*Free space there/);
      await expectNothingLeft(target, 1);
      await small.empty();
      await expectGoesOn(target);
    });
  });

  it('does not notice a target that is full before anybody can see it, with fleecing', async () => {
    const target = join(dir, 'full');
    const small = await mountSmall(target, 320 * MiB);
    await fullAndChanges(target);
    await unnoticedByGuest('the target is full at once', async () => {
      const run = await slowInc(target, '--reserve', '0', '--fleece', 'always');
      await small.fill();
      const ending = await run.ended;
      expect(ending).toMatchObject({ exitCode: 1 });
      expect(ending.stderr).toMatch(/the backup of d[12] failed: No space left on device/);
      expect(ending.stderr).toMatch(/hint: .*no change is lost/);
      await expectNothingLeft(target, 1);
      await small.empty();
      await expectGoesOn(target);
    });
  });

  it('does not notice a target that hangs, with fleecing', async () => {
    const target = join(dir, 'hung');
    const server = await mountHanging(target);
    await fullAndChanges(target);
    await unnoticedByGuest('the target hangs', async () => {
      const run = await slowInc(target, '--reserve', '0', '--fleece', 'always', '--stall-timeout', '5');
      server.hang();
      const ending = await run.ended;
      expect(ending).toMatchObject({ exitCode: 1 });
      expect(ending.stderr).toMatch(/the target \S+ hangs: its file system has not answered for 5 s/);
      expect(ending.stderr).toMatch(/hint: No change is lost.*the next run ends and takes away/);
      expect(await vm.control.execute('query-status')).toMatchObject({ running: true });
      server.answer();
      await expectGoesOn(target);
    });
  });

  it('does notice a target that hangs, without fleecing', async () => {
    const target = join(dir, 'noticed');
    const server = await mountHanging(target);
    await fullAndChanges(target);
    await takeFlood(vm.guest);
    const run = await slowInc(target, '--reserve', '0', '--fleece', 'never', '--stall-timeout', '60');
    server.hang();
    await sleep(4_000);
    server.answer();
    const seen = await takeFlood(vm.guest);
    say('the target hangs for 4 s, without fleecing', seen);
    expect(seen.longestMs).toBeGreaterThan(2_000);
    expect(seen.errors).toEqual([]);
    run.kill('SIGTERM');
    expect(await run.ended).toMatchObject({ exitCode: 143 });
    await expectGoesOn(target);
  });

  it('stands still for milliseconds when its disks are fleeced', async () => {
    const target = join(dir, 'paused');
    const pauses: number[] = [];
    await unnoticedByGuest('six fleeced runs', async () => {
      for (let number = 0; number < 6; number += 1) {
        const { point, pausedMs } = await backup(target, 'auto', '--reserve', '0', '--fleece', 'always');
        expect(point).toMatchObject({ number });
        pauses.push(pausedMs!);
      }
    });
    const [median, longest] = [pauses.sort((a, b) => a - b)[3]!, pauses[5]!];
    process.stdout.write(`stood still for ${median.toFixed(1)} ms (median of 6), at most ${longest.toFixed(1)} ms\n`);
    expect(longest).toBeLessThan(1_000);
  });
});

function say(what: string, { writes, longestMs }: FloodReport, control?: FloodReport): void {
  const otherwise = control ? `; without any backup ${control.longestMs} ms (${control.writes} writes)` : '';
  process.stdout.write(`${what}: a write waited for at most ${longestMs} ms (${writes} writes)${otherwise}\n`);
}

async function scratchFolders(dir: string): Promise<readonly string[]> {
  return (await readdir(dir)).filter((name) => name.endsWith('.scratch'));
}
