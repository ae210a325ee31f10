import { textsOf } from '../support/scenario.js';
import { existsSync } from 'node:fs';
import { readdir, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { run as qmp } from '../../src/qmp/commands.js';
import { MiB } from '../support/builders.js';
import { expectCli, startCli } from '../support/cli.js';
import { checkFs, checkWrittenFiles, compareImages, fileChecksums, readCounter } from '../support/lab/compare.js';
import { createCounterDisk, makeExt4 } from '../support/lab/disk-images.js';
import { flush } from '../support/lab/guest-writes.js';
import { makeLabDir } from '../support/lab/programs.js';
import { type GuestVm, startQemu } from '../support/lab/qemu.js';
import { IS_LONG } from '../support/moments.js';
import { patient } from '../support/patience.js';
import { type HeldRelay, startRelay } from '../support/qmp-relay.js';
import type { BackupAnswer } from '../support/scenario.js';
import { straysOf } from '../support/target-files.js';

/**
 * What only a real guest can show: file systems that are frozen by its agent, programs that go on writing, and files
 * that are there again after a restore. One guest serves all tests of a describe; each test has a target of its own.
 */
const MOUNTS = ['/mnt/d1', '/mnt/d2'] as const;
const DISKS = ['d1', 'd2'] as const;
const INCREMENTS = IS_LONG ? 20 : 8;

interface Answer extends BackupAnswer {
  readonly freeze: { readonly fileSystems: number; readonly frozenMs: number | null } | null;
}

describe('two ext4 disks and a guest that writes all the time', () => {
  let dir = '';
  let vm: GuestVm;

  beforeAll(async () => {
    dir = await makeLabDir();
    const disks = DISKS.map((id, index) => ({ id, label: `DATA${index + 1}`, file: join(dir, `${id}.qcow2`) }));
    for (const { file, label } of disks) await makeExt4({ file, label, format: 'qcow2', size: 64 * MiB });
    vm = await startQemu({
      dir: join(dir, 'vm'),
      name: 'writer',
      disks: disks.map(({ id, file }, index) => ({ id, file, ...(index === 1 && { via: 'blockdev' as const }) })),
      guest: { workload: ['writer'] },
    });
    await vm.guest.waitForWorkload('writer');
  });
  afterAll(async () => {
    await vm?.kill();
    await rm(dir, { recursive: true, force: true });
  });

  const relays: HeldRelay[] = [];
  afterEach(async () => {
    for (const relay of relays.splice(0)) await relay.close();
  });

  const through = (socket: string, target: string, more: readonly string[]): string[] => [
    ...['--json', '--socket', socket, '--agent-socket', vm.agentSocket],
    ...['backup', '--target', join(dir, target), ...more],
  ];
  const backup = async (target: string, ...more: string[]): Promise<Answer> =>
    (await expectCli(0, through(vm.socket, target, more))).json<Answer>();

  /** The images of a point's disks, restored into a folder that `use` has to itself. */
  const restored = async <T>(target: string, point: number, use: (images: string[]) => Promise<T>): Promise<T> => {
    const output = join(dir, `${target}-${point}`);
    await expectCli(0, ['restore', '--target', join(dir, target), '--point', String(point), '--output', output]);
    const result = await use(DISKS.map((id) => join(output, `${id}.qcow2`)));
    await rm(output, { recursive: true });
    return result;
  };

  /** Every disk of a point is a clean file system with the files that the guest had. */
  const expectCleanPoint = (target: string, point: number): Promise<void> =>
    restored(target, point, async (images) => {
      for (const image of images) {
        await checkFs(image);
        expect((await checkWrittenFiles(image)).matched).toBeGreaterThan(0);
      }
    });

  /** Starts a run and returns when its transaction is held up: the guest is frozen now. */
  const startFrozenRun = async (target: string, ...more: string[]) => {
    const relay = await startRelay(join(dir, 'relay.sock'), vm.socket);
    relays.push(relay);
    const tool = startCli(through(relay.socket, target, more));
    const early = tool.then(({ stderr }) =>
      Promise.reject(new Error(`the tool ended before its transaction: ${stderr}`)),
    );
    await Promise.race([relay.held, early]);
    early.catch(() => undefined);
    for (const mount of MOUNTS) expect(await vm.guest.isFrozen(mount)).toBe(true);
    // A program of the guest that hangs on its write until the thaw.
    const written = vm.guest.run(MOUNTS.map((mount) => `echo thawed >${mount}/after-thaw`).join(' && '));
    return { tool, relay, written };
  };

  const elapsedMs = async (promise: Promise<unknown>): Promise<number> => {
    const begun = performance.now();
    await promise;
    return performance.now() - begun;
  };

  /** Names of the bitmaps on all disks. */
  const bitmaps = async (): Promise<string[]> => {
    const nodes = await qmp(vm.control, 'query-named-block-nodes', { flat: true });
    return nodes.flatMap((node) => (node['dirty-bitmaps'] ?? []).map(({ name }) => name ?? '')).sort();
  };

  const bitmapsOf = async (target: string): Promise<string[]> => {
    const { targetId } = JSON.parse(await readFile(join(dir, target, 'catalog.json'), 'utf8')) as { targetId: string };
    return (await bitmaps()).filter((name) => name.startsWith(`qmpbackup-${targetId}-`));
  };

  /** `--quiesce=require` is refused, and leaves neither folder nor bitmap nor job behind. */
  const expectRefused = async (agentSocket: string, why: RegExp): Promise<void> => {
    const before = await bitmaps();
    const refused = await expectCli(1, quiesced(agentSocket, 'refused', '--quiesce=require'));
    expect(refused.stderr).toMatch(why);
    expect(existsSync(join(dir, 'refused'))).toBe(false);
    expect(await bitmaps()).toEqual(before);
    expect(await vm.control.execute('query-jobs')).toEqual([]);
  };

  const quiesced = (agentSocket: string, target: string, quiesce: string): string[] => [
    ...['--json', '--socket', vm.socket, '--agent-socket', agentSocket],
    ...['backup', '--level', 'full', '--target', join(dir, target), quiesce],
  ];

  /** After a run that died: the next INC is right, holds every change, and clears up what was left. */
  const expectNextRunIsRight = async (target: string, number: number): Promise<void> => {
    const { point } = await backup(target, '--level', 'inc', '--quiesce=require');
    expect(point).toMatchObject({ number, level: 'inc', consistency: 'filesystem' });
    await expectCleanPoint(target, number);
    await expectChainEqualsDisks(target);
    expect(await vm.control.execute('query-jobs')).toEqual([]);
    // Of each disk's latest file and latest FULL.
    expect(await bitmapsOf(target)).toHaveLength(2 * DISKS.length);
    const files = await readdir(join(dir, target), { recursive: true });
    expect(straysOf(files)).toEqual([]);
  };

  const expectGuestWrites = async (): Promise<void> => {
    for (const mount of MOUNTS) {
      expect(await vm.guest.isFrozen(mount)).toBe(false);
      await vm.guest.untilWritten(mount);
    }
  };

  /** With the guest at rest, the newest point is what the disks are, bit for bit. */
  const expectChainEqualsDisks = async (target: string): Promise<void> => {
    await vm.guest.pauseWorkload();
    const { point } = await backup(target, '--level', 'inc');
    expect(point.consistency).toBe('crash');
    for (const id of DISKS) await flush(vm, id);
    await restored(target, point.number, async (images) => {
      for (const [index, id] of DISKS.entries()) await compareImages(images[index]!, vm.disk(id).file!);
      // Without a freeze even a guest at rest leaves a journal to replay: checkFs does tell the two apart.
      await expect(checkFs(images[0]!)).rejects.toThrow(/journal/);
    });
    await vm.guest.resumeWorkload();
  };

  it(`each of FULL + ${INCREMENTS} INC, all quiesced, is a clean file system with the files of its instant`, async () => {
    const frozenMs: number[] = [];
    for (let number = 0; number <= INCREMENTS; number += 1) {
      const level = number === 0 ? 'full' : 'inc';
      const { point, freeze, warnings } = await backup('points', '--level', level, '--quiesce=require');
      expect(point).toMatchObject({ number, level, consistency: 'filesystem' });
      expect(warnings).toEqual([]);
      // None of these points is empty, or the test would show nothing.
      for (const disk of point.disks) expect(disk.changed).toBeGreaterThan(0);
      expect(freeze).toMatchObject({ fileSystems: 2, frozenMs: expect.any(Number) as number });
      frozenMs.push(freeze!.frozenMs!);
      await expectGuestWrites();
    }
    const list = await expectCli(0, ['--json', 'list', '--target', join(dir, 'points')]);
    expect(list.stdout.match(/"consistency": "filesystem"/g)).toHaveLength(INCREMENTS + 1);
    for (let number = 0; number <= INCREMENTS; number += 1) await expectCleanPoint('points', number);

    await expectChainEqualsDisks('points');
    const [median, longest] = [frozenMs.sort((a, b) => a - b)[INCREMENTS / 2]!, frozenMs[INCREMENTS]!];
    process.stdout.write(
      `frozen for ${median.toFixed(1)} ms (median of ${INCREMENTS + 1}), at most ${longest.toFixed(1)} ms\n`,
    );
  });

  it('a restored point boots, and the guest in it has its files', async () => {
    await vm.guest.pauseWorkload();
    const had = [await vm.guest.fileChecksums(MOUNTS[0]), await vm.guest.fileChecksums(MOUNTS[1])];
    const { point } = await backup('booted', '--level', 'full', '--quiesce=require');
    await vm.guest.resumeWorkload();
    await restored('booted', point.number, async ([first, second]) => {
      const disks = [
        { id: 'd1', file: first! },
        { id: 'd2', file: second!, via: 'blockdev' as const },
      ];
      const twin = await startQemu({ dir: join(dir, 'twin'), disks, guest: true });
      try {
        expect([await twin.guest.fileChecksums(MOUNTS[0]), await twin.guest.fileChecksums(MOUNTS[1])]).toEqual(had);
        await twin.guest.run('echo more >/mnt/d1/more');
        await twin.powerdown();
      } finally {
        await twin.kill();
      }
      await checkFs(first!);
      expect([...(await fileChecksums(first!)).keys()]).toContain('more');
    });
  });

  it('SIGKILL of the tool between freeze and thaw: the guest is thawed at once', async () => {
    await backup('killed', '--level', 'full', '--quiesce=require');
    const limit = ['--freeze-limit', '60'];
    const { tool, relay, written } = await startFrozenRun('killed', '--level', 'inc', '--quiesce=require', ...limit);
    tool.kill('SIGKILL');
    expect(await elapsedMs(written)).toBeLessThan(patient(2_000));
    await tool;
    await expectGuestWrites();
    // QEMU had the transaction in its socket: it starts jobs that nobody waits for.
    await relay.close();
    expect(await vm.control.execute('query-jobs')).toHaveLength(DISKS.length);
    await expectNextRunIsRight('killed', 1);
  });

  it('SIGTERM between freeze and thaw: the guest is thawed at once, and nothing is kept', async () => {
    await backup('ended', '--level', 'full', '--quiesce=require');
    const limit = ['--freeze-limit', '60'];
    const { tool, relay, written } = await startFrozenRun('ended', '--level', 'inc', '--quiesce=require', ...limit);
    tool.kill('SIGTERM');
    expect(await elapsedMs(written)).toBeLessThan(patient(2_000));
    // Only now may the transaction go on: its jobs are cancelled.
    relay.letGo();
    expect((await tool).exitCode).toBe(143);
    expect(await vm.control.execute('query-jobs')).toEqual([]);
    expect(await bitmapsOf('ended')).toHaveLength(DISKS.length);
    await relay.close();
    await expectNextRunIsRight('ended', 1);
  });

  it('SIGSTOP of the tool between freeze and thaw: the guest is thawed within --freeze-limit', async () => {
    await backup('stopped', '--level', 'full', '--quiesce=require');
    const limit = ['--freeze-limit', '3'];
    const { tool, relay, written } = await startFrozenRun('stopped', '--level', 'inc', '--quiesce=require', ...limit);
    tool.kill('SIGSTOP');
    // The limit, and what the way through an emulated guest takes.
    expect(await elapsedMs(written)).toBeLessThan(3_000 + patient(1_000));
    relay.letGo();
    tool.kill('SIGCONT');
    const { exitCode, stderr } = await tool;
    expect(stderr).toContain('the guest did not stay frozen');
    expect(exitCode).toBe(1);
    await relay.close();
    await expectNextRunIsRight('stopped', 1);
  });

  it('a transaction that outlasts the freeze limit makes a crash point, never a filesystem one', async () => {
    const limit = ['--freeze-limit', '1'];
    const { tool, relay, written } = await startFrozenRun('slow', '--level', 'full', '--quiesce', ...limit);
    await written;
    relay.letGo();
    const { exitCode, stdout } = await tool;
    expect(exitCode).toBe(0);
    const { point, warnings } = JSON.parse(stdout) as Answer;
    expect(point.consistency).toBe('crash');
    expect(textsOf(warnings).join()).toContain('the guest did not stay frozen');
    await relay.close();
    await expectNextRunIsRight('slow', 1);
  });

  it('the agent of a paused guest is not called: a warning, and a crash point', async () => {
    let calls = 0;
    const listener = createServer((socket) => {
      calls += 1;
      socket.destroy();
    });
    const agent = join(dir, 'nobody.sock');
    await new Promise<void>((resolve) => listener.listen(agent, resolve));
    await vm.control.execute('stop');
    try {
      await expectRefused(agent, /--quiesce=require.*not running \(paused\)/);
      const { point, warnings, freeze } = (await expectCli(0, quiesced(agent, 'paused', '--quiesce'))).json<Answer>();
      expect(point.consistency).toBe('crash');
      expect(freeze).toBeNull();
      expect(textsOf(warnings).join()).toMatch(/not running \(paused\).*marked crash/);
      expect(calls).toBe(0);
      expect(await vm.control.execute('query-status')).toMatchObject({ status: 'paused' });
    } finally {
      await vm.control.execute('cont');
      listener.close();
    }
  });

  it('an agent that is not there: a warning and a crash point, or a refusal that changes nothing', async () => {
    const agent = join(dir, 'none.sock');
    await expectRefused(agent, /no guest agent/);
    const { point, warnings } = (await expectCli(0, quiesced(agent, 'no-agent', '--quiesce'))).json<Answer>();
    expect(point.consistency).toBe('crash');
    expect(textsOf(warnings).join()).toMatch(/no guest agent.*marked crash/);
  });

  it('an agent that hangs: the same, and the next run freezes again', async () => {
    await vm.guest.run('kill -STOP $(pidof qemu-ga)');
    try {
      await expectRefused(vm.agentSocket, /no guest agent answered/);
      const { point, warnings } = await backup('hanging', '--level', 'full', '--quiesce');
      expect(point.consistency).toBe('crash');
      expect(textsOf(warnings).join()).toMatch(/no guest agent answered.*marked crash/);
    } finally {
      await vm.guest.run('kill -CONT $(pidof qemu-ga)');
    }
    const { point } = await backup('hanging', '--level', 'inc', '--quiesce=require');
    expect(point.consistency).toBe('filesystem');
    await expectGuestWrites();
  });
});

describe('a counter that the guest writes to disk 1 and then to disk 2', () => {
  const COUNTERS = ['c1', 'c2'] as const;
  let dir = '';
  let vm: GuestVm;

  beforeAll(async () => {
    dir = await makeLabDir();
    const disks = COUNTERS.map((id) => ({ id, file: join(dir, `${id}.qcow2`) }));
    for (const [index, { file }] of disks.entries()) {
      await createCounterDisk({ file, format: 'qcow2', number: index === 0 ? 1 : 2 });
    }
    vm = await startQemu({ dir: join(dir, 'vm'), name: 'counter', disks, guest: { workload: ['counter'] } });
    await vm.guest.waitForWorkload('counter');
  });
  afterAll(async () => {
    await vm?.kill();
    await rm(dir, { recursive: true, force: true });
  });

  const backup = async (target: string, ...more: string[]): Promise<BackupAnswer> => {
    const args = ['--json', '--socket', vm.socket, 'backup', '--target', join(dir, target), ...more];
    return (await expectCli(0, args)).json<BackupAnswer>();
  };

  /** The counters in a point. */
  const counters = async (target: string, point: number): Promise<[number, number]> => {
    const output = join(dir, `${target}-${point}`);
    await expectCli(0, ['restore', '--target', join(dir, target), '--point', String(point), '--output', output]);
    const read = async (id: string): Promise<number> => {
      const image = join(output, `${id}.qcow2`);
      return existsSync(image) ? readCounter(image) : 0;
    };
    const [first, second] = [await read('c1'), await read('c2')];
    await rm(output, { recursive: true });
    return [first, second];
  };

  const expectCounterAdvances = (): Promise<string> =>
    vm.guest.run(`count() { tr -dc 0-9 </run/lab/counter.block; }
      n=$(count); n=\${n:-0}
      until m=$(count); [ "\${m:-0}" -gt $((n + 1)) ]; do usleep 10000; done`);

  it('never shows disk 2 ahead, nor disk 1 by more than one, in FULL + 10 INC', async () => {
    for (let number = 0; number <= 10; number += 1) {
      const { point } = await backup('points', '--level', number === 0 ? 'full' : 'inc');
      expect(point).toMatchObject({ number, consistency: 'crash' });
      await expectCounterAdvances();
    }
    let last = 0;
    for (let number = 0; number <= 10; number += 1) {
      const [first, second] = await counters('points', number);
      expect([first, first - 1]).toContain(second);
      expect(first).toBeGreaterThan(last);
      last = first;
    }
  });

  it('does show disk 2 ahead where the disks are backed up one after the other', async () => {
    await backup('one-by-one', '--level', 'full', '--include', 'c1');
    await expectCounterAdvances();
    await backup('one-by-one', '--level', 'auto', '--include', 'c2');
    const [[first], [, second]] = [await counters('one-by-one', 0), await counters('one-by-one', 1)];
    expect(second).toBeGreaterThan(first);
  });
});
