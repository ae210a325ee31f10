import { cp, mkdir, readdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { expectSame, type Lab, makeDisk, makeLab, photograph, pointsOf, record, rot } from '../support/chains.js';
import { anotherUser } from '../support/another-user.js';
import { endProcess, isAlive, recordIn } from '../support/booted.js';
import { MiB } from '../support/builders.js';
import { expectCli, qmpbackup, startCli } from '../support/cli.js';
import { changeFiles, ext4Of, NAMES, sumOf, writePartition, writeTable } from '../support/guest-disk.js';
import { compareImages } from '../support/lab/compare.js';
import { write } from '../support/lab/guest-writes.js';
import { run } from '../support/lab/programs.js';
import { mountsBelow } from '../support/mounting.js';
import { labDir, scenario, type Scenario } from '../support/scenario.js';
import { MOMENTS, MOMENTS_OF_LONG } from '../support/moments.js';
import { patient } from '../support/patience.js';
import { startServe } from '../support/serving.js';
import { straysOf } from '../support/target-files.js';

/** What reads a backup, killed at random moments of a run: never a byte of the backup changes, and the next run clears the rest. */
const FILES = ['FULL-100.qcow2', 'INC-101.qcow2', 'INC-102.qcow2'] as const;

async function chain(): Promise<Lab> {
  const lab = await makeLab();
  const [full, first, second] = FILES;
  const entries = await makeDisk(lab, 'vda', [
    { file: full, io: ['write -P 1 0 6M'] },
    { file: first, on: full, io: ['write -P 2 1M 1M'] },
    { file: second, on: first, io: ['write -P 3 2M 1M'] },
  ]);
  const points = pointsOf(entries);
  // So that there is a copy of the catalog as it was before.
  await record(lab, points.slice(0, 2));
  await record(lab, points);
  return lab;
}

/** Runs it, kills it somewhere before its end, `moments` times, and looks each time. */
async function killedAtRandom(
  args: readonly string[],
  took: number,
  env: NodeJS.ProcessEnv,
  moments: number,
  look: () => Promise<void>,
): Promise<void> {
  for (let moment = 0; moment < moments; moment += 1) {
    await killedAfter(took * (0.1 + 0.9 * Math.random()), args, env);
    await look();
  }
}

async function timed(body: () => Promise<unknown>): Promise<number> {
  const begun = performance.now();
  await body();
  return performance.now() - begun;
}

/** But for what says who has been here. */
async function backupIn(target: string): Promise<Record<string, string>> {
  const photo = await photograph(target);
  return Object.fromEntries(Object.entries(photo).filter(([name]) => !/^(verified\.json|open-|\.lock)/.test(name)));
}

async function temporary(): Promise<{ readonly TMPDIR: string }> {
  const TMPDIR = join(await labDir(), 't');
  await mkdir(TMPDIR);
  return { TMPDIR };
}

it('verify', async () => {
  const lab = await chain();
  const env = await temporary();
  const before = await backupIn(lab.target);
  const args = ['verify', '--target', lab.target, '--read-data'];
  const took = await timed(() => expectCli(0, args));
  await killedAtRandom(args, took, env, MOMENTS, async () => expect(await backupIn(lab.target)).toEqual(before));
  await expectCli(0, args);
  expect(straysOf(await readdir(lab.target))).toEqual([]);
  expect(await readdir(env.TMPDIR)).toEqual([]);
});

it('verify --repair, of a backup whose catalog is lost, with a wrong link, strays and damage', async () => {
  const lab = await chain();
  const env = await temporary();
  const [full, first, second] = FILES;
  const ruined = join(lab.root, 'ruined');
  const path = (file: string): string => join(lab.folder('vda'), file);
  await rm(join(lab.target, 'catalog.json'));
  await run('qemu-img', ['rebase', '-u', '-F', 'qcow2', '-b', full, path(second)]);
  await cp(path(first), path('INC-999.qcow2'));
  await cp(path(first), path('INC-998.qcow2.partial'));
  await cp(lab.target, ruined, { recursive: true, preserveTimestamps: true });
  const again = async (): Promise<void> => {
    await rm(lab.target, { recursive: true, force: true });
    await cp(ruined, lab.target, { recursive: true, preserveTimestamps: true });
  };
  const repair = ['verify', '--target', lab.target, '--repair'];
  const took = await timed(() => qmpbackup(repair));
  await again();
  await killedAtRandom(repair, took, env, MOMENTS, async () => {
    await expectCli(0, repair);
    for (const [point, file] of FILES.entries()) {
      const output = join(lab.root, `out-${point}`);
      await expectCli(0, [
        'restore',
        '--target',
        lab.target,
        '--point',
        String(point),
        '--output',
        output,
        '--no-verify',
      ]);
      await expectSame(join(output, 'vda.qcow2'), lab.flat('vda', file));
      await rm(output, { recursive: true });
    }
    // What was moved aside is kept, each once.
    const kept = (await readdir(lab.target, { recursive: true })).filter((name) => /stray-.*INC-99[89]/.test(name));
    expect(kept.map((name) => name.slice(-22)).toSorted()).toHaveLength(2);
    expect(
      straysOf((await readdir(lab.target, { recursive: true })).filter((name) => !name.startsWith('stray-'))),
    ).toEqual([]);
    await again();
  });
});

it('serve, with overlays and without', async () => {
  const lab = await chain();
  const env = await temporary();
  const before = await backupIn(lab.target);
  const overlay = join(lab.root, 'overlay');
  const plain = ['serve', '--target', lab.target];
  const daemons = async (): Promise<string> =>
    (await run('pgrep', ['-f', `qemu-storage-daemon.*${env.TMPDIR}`], { allowed: [0, 1] })).stdout;
  const took = await timed(async () => (await startServe(plain.slice(1), env)).end());
  for (const args of [plain, [...plain, '--overlay', overlay]]) {
    await killedAtRandom(args, took, env, MOMENTS, async () => {
      await expect.poll(daemons).toBe('');
      expect(await backupIn(lab.target)).toEqual(before);
    });
  }
  const serving = await startServe([...plain.slice(1), '--overlay', overlay], env);
  const { uri } = serving.disks[0]!;
  await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', uri, lab.flat('vda', FILES[2])]);
  await run('qemu-io', ['-f', 'raw', '-c', 'write -P 0x55 3M 64k', '-c', 'flush', uri]);
  await serving.end('SIGKILL');
  await expect.poll(daemons).toBe('');
  const last = await startServe([...plain.slice(1), '--overlay', overlay], env);
  await run('qemu-io', ['-r', '-f', 'raw', '-c', 'read -P 0x55 3M 64k', last.disks[0]!.uri]);
  expect(await last.end()).toBe(0);
  expect(await readdir(overlay)).toEqual(['overlay.json', 'vda.qcow2']);
  expect(await filledIn(env.TMPDIR)).toEqual([]);
  expect(straysOf(await readdir(lab.target))).toEqual([]);
  expect((await readdir(lab.target)).filter((name) => name.startsWith('open-'))).toEqual([]);
  expect(await backupIn(lab.target)).toEqual(before);
});

it('files get, which leaves whole files alone in the folder of the user', async () => {
  const lab = await scenario([{ id: 'd1', size: 96 * MiB }]);
  const env = await temporary();
  const [state, image] = [join(lab.dir, 'state'), join(lab.dir, 'ext4.raw')];
  await changeFiles(state, [1, 2, 3]);
  await ext4Of(state, image);
  await writeTable(lab, 'd1');
  await writePartition(lab, 'd1', 1, image);
  await lab.backup('full');
  const before = await backupIn(lab.target);
  const outputs = Array.from({ length: MOMENTS_OF_LONG + 1 }, (_, index) => join(lab.dir, `got-${index}`));
  const get = (output: string): string[] => ['files', 'get', '--target', lab.target, '--output', output, '/data'];
  const took = await timed(() => expectCli(0, get(outputs.pop()!), { env }));
  for (const output of outputs) {
    await killedAfter(took * (0.1 + 0.9 * Math.random()), get(output), env);
    await expect.poll(() => processesWith(env.TMPDIR)).toEqual([]);
    expect(await backupIn(lab.target)).toEqual(before);
    const names = await readdir(join(output, 'data')).catch(() => []);
    for (const name of names.filter((each) => NAMES.includes(each)))
      expect(await sumOf(join(output, 'data', name))).toBe(await sumOf(join(state, 'data', name)));
  }
  await expectCli(0, get(join(lab.dir, 'last')), { env });
  expect(mountsBelow(env.TMPDIR)).toEqual([]);
  expect(await filledIn(env.TMPDIR)).toEqual([]);
  expect((await readdir(lab.target)).filter((name) => name.startsWith('open-'))).toEqual([]);
  expect(await backupIn(lab.target)).toEqual(before);
});

it('boot, whose VM either runs with its disks or was never started', async () => {
  const lab = await offWithPoints();
  const env = await temporary();
  const before = await backupIn(lab.target);
  const folders = Array.from({ length: MOMENTS_OF_LONG }, (_, index) => join(lab.dir, `to-${index}`));
  const args = (to: string): string[] => ['boot', '--target', lab.target, '--to', to, '--', '-accel', 'tcg'];
  const first = join(lab.dir, 'first');
  const took = await timed(() => expectCli(0, args(first), { env }));
  await endProcess((await recordIn(first)).owner.pid);
  let [running, neverStarted] = [0, 0];
  for (const to of folders) {
    await killedAfter(took * (0.1 + 0.9 * Math.random()), args(to), env);
    // What is left becomes the VM that was recorded, or ends.
    await expect.poll(async () => (await isBooted(to)) || (await processesWith(to)).length === 0).toBe(true);
    if (await isBooted(to)) {
      running += 1;
      await endProcess((await recordIn(to)).owner.pid);
    } else neverStarted += 1;
    await expect.poll(() => processesWith(env.TMPDIR)).toEqual([]);
    expect(await processesWith(to)).toEqual([]);
    expect(await backupIn(lab.target)).toEqual(before);
  }
  expect(running + neverStarted).toBe(MOMENTS_OF_LONG);
  // Each folder is good for another start, and what was made in it is there.
  const [, to = ''] = folders;
  const overlays = (await readdir(to).catch(() => [])).filter((name) => name.endsWith('.qcow2'));
  await expectCli(0, args(to), { env });
  expect(await readdir(to)).toEqual(expect.arrayContaining(overlays));
  await endProcess((await recordIn(to)).owner.pid);
  await expectCli(0, ['rebase', '--target', lab.target, '--disk', 'd1', '--dry-run'], { env });
  await (await startServe(['--target', lab.target], env)).end();
  expect(await filledIn(env.TMPDIR)).toEqual([]);
  expect((await readdir(lab.target)).filter((name) => name.startsWith('open-'))).toEqual([]);
});

it('verify --boot, whose VM goes with it', async () => {
  const lab = await offWithPoints();
  const env = await temporary();
  const before = await backupIn(lab.target);
  const args = ['verify', '--target', lab.target, '--boot', '--expect', 'running:1', '--', '-accel', 'tcg'];
  const took = await timed(() => expectCli(0, args, { env }));
  await killedAtRandom(args, took, env, MOMENTS_OF_LONG, async () => {
    await expect.poll(() => processesWith(env.TMPDIR), { timeout: patient(10_000) }).toEqual([]);
    expect(await backupIn(lab.target)).toEqual(before);
  });
  await expectCli(0, args, { env });
  expect(await filledIn(env.TMPDIR)).toEqual([]);
  expect((await readdir(lab.target)).filter((name) => /^open-|\.lock/.test(name))).toEqual([]);
});

/** A VM that is off, and a FULL and an INC of it. */
async function offWithPoints(): Promise<Scenario> {
  const lab = await scenario();
  await lab.backup('full');
  await write(lab.vm, 'd1', { offset: 0, length: MiB, pattern: 0x22 });
  await lab.backup('inc');
  await lab.vm.stop();
  return lab;
}

/** The process of the record is QEMU, whose monitor is there. */
async function isBooted(to: string): Promise<boolean> {
  const record = await recordIn(to).catch(() => undefined);
  if (!record || !isAlive(record.owner.pid)) return false;
  return (await processesWith(to)).some((command) => command.startsWith('qemu-system'));
}

async function killedAfter(ms: number, args: readonly string[], env: NodeJS.ProcessEnv): Promise<void> {
  const child = startCli(args, { env });
  await sleep(ms);
  child.kill('SIGKILL');
  await child;
}

/** Command lines that name a folder: the VMs and daemons that have something there. */
async function processesWith(folder: string): Promise<readonly string[]> {
  const found = [];
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (command.includes(folder)) found.push(command.replaceAll('\0', ' '));
  }
  return found;
}

/** But for folders whose maker was killed before it had said whose they are: those go after a minute. */
async function filledIn(folder: string): Promise<readonly string[]> {
  const names = await readdir(folder);
  const filled = await Promise.all(names.map(async (each) => (await readdir(join(folder, each))).length > 0));
  return names.filter((_, index) => filled[index]);
}

it('another user boots what is his, and what he may only read, and proves that it boots', async () => {
  const lab = await offWithPoints();
  const nobody = await anotherUser(lab.dir);
  for (const mine of [true, false]) {
    await run('chown', ['-R', mine ? 'nobody:nogroup' : 'root:root', lab.target]);
    await run('chmod', ['-R', 'a+rX', lab.target]);
    const verify = ['verify', '--target', lab.target, '--boot', '--expect', 'running:1', '--', '-accel', 'tcg'];
    const verified = await nobody.run(verify);
    expect(verified, verified.stderr).toMatchObject({ exitCode: 0 });
    expect(verified.stdout).toMatch(/point 1 boots: it ran after \d/);
    const to = join(nobody.home, `to-${mine}`);
    const booted = await nobody.run(['boot', '--target', lab.target, '--to', to, '--', '-accel', 'tcg']);
    expect(booted, booted.stderr).toMatchObject({ exitCode: 0 });
    const { pid } = (await recordIn(to)).owner;
    expect((await stat(`/proc/${pid}`)).uid).toBe((await stat(nobody.home)).uid);
    const { exitCode } = await nobody.run(['boot', '--target', lab.target, '--to', to, '--stream']);
    expect(exitCode).toBe(0);
    await endProcess(pid);
    for (const disk of ['d1', 'd2']) await compareImages(join(to, `${disk}.qcow2`), join(lab.dir, `${disk}.qcow2`));
    await rm(to, { recursive: true });
  }
  expect(await readdir(nobody.home)).toEqual([]);
});

it('another user verifies and serves what is his, and what he may only read', async () => {
  const lab = await chain();
  const nobody = await anotherUser(lab.root);
  const damaged = join(lab.folder('vda'), FILES[1]);
  for (const mine of [true, false]) {
    await run('chown', ['-R', mine ? 'nobody:nogroup' : 'root:root', lab.target]);
    await run('chmod', ['-R', 'a+rX', lab.target]);
    const verify = ['verify', '--target', lab.target, '--read-data'];
    const verified = await nobody.run(verify);
    expect(verified.exitCode).toBe(0);
    expect(verified.stderr).toMatch(mine ? /^$/ : /cannot be locked/);

    const child = nobody.run(['--json', 'serve', '--target', lab.target]);
    let told = '';
    child.stdout.on('data', (chunk: Buffer) => (told += chunk.toString()));
    await expect.poll(() => told, { timeout: patient(20_000) }).toMatch(/\}\n$/);
    const { disks } = JSON.parse(told) as { readonly disks: readonly { readonly uri: string }[] };
    await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', disks[0]!.uri, lab.flat('vda', FILES[2])]);
    child.kill('SIGINT');
    expect((await child).exitCode).toBe(0);

    await rot(damaged);
    expect((await nobody.run(verify)).exitCode).toBe(4);
    await run('qemu-io', ['-f', 'raw', '-c', `write -P 2 ${(await stat(damaged)).size - 100} 1`, damaged]);
    await run('chmod', ['0', damaged]);
    expect((await nobody.run(verify)).exitCode).toBe(4);
    expect((await nobody.run(['serve', '--target', lab.target])).exitCode).toBe(13);
  }
  expect(await readdir(nobody.home)).toEqual([]);
});
