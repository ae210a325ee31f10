import { cp, mkdir, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { expectSame, type Lab, makeDisk, makeLab, photograph, pointsOf, record, rot } from '../support/chains.js';
import { anotherUser } from '../support/another-user.js';
import { expectCli, qmpbackup, startCli } from '../support/cli.js';
import { run } from '../support/lab/programs.js';
import { labDir } from '../support/scenario.js';
import { patient } from '../support/patience.js';
import { startServe } from '../support/serving.js';
import { straysOf } from '../support/target-files.js';

/** `verify` and `serve`, killed at random moments of a run: never a byte of the backup changes, and the next run clears the rest. */
const MOMENTS = 20;
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

/** Runs it, kills it somewhere before its end, as often as there are moments, and looks each time. */
async function killedAtRandom(
  args: readonly string[],
  took: number,
  env: NodeJS.ProcessEnv,
  look: () => Promise<void>,
): Promise<void> {
  for (let moment = 0; moment < MOMENTS; moment += 1) {
    const child = startCli(args, { env });
    await sleep(took * (0.1 + 0.9 * Math.random()));
    child.kill('SIGKILL');
    await child;
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
  await killedAtRandom(args, took, env, async () => expect(await backupIn(lab.target)).toEqual(before));
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
  await killedAtRandom(repair, took, env, async () => {
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
    await killedAtRandom(args, took, env, async () => {
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
  expect(await readdir(env.TMPDIR)).toEqual([]);
  expect(straysOf(await readdir(lab.target))).toEqual([]);
  expect((await readdir(lab.target)).filter((name) => name.startsWith('open-'))).toEqual([]);
  expect(await backupIn(lab.target)).toEqual(before);
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
