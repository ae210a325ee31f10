import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { describe, expect, it } from 'vitest';
import { photograph, rot } from '../support/chains.js';
import { expectCli, PROGRAM, startCli } from '../support/cli.js';
import { run } from '../support/lab/programs.js';
import { afterTest, labDir, type Scenario, withFull, writeBoth } from '../support/scenario.js';
import { startServe, type Serving } from '../support/serving.js';
import { imagesIn } from '../support/target-files.js';

// What is served is held against what is restored of the same point.

/** FULL and two increments of d1 and d2. */
async function withIncrements(): Promise<Scenario> {
  const lab = await withFull();
  for (const at of [3, 5]) {
    await writeBoth(lab, at, 0x10 + at);
    await lab.backup('inc');
  }
  return lab;
}

/** A folder for temporary files, to see what is left in it. */
async function temporary(): Promise<{ readonly TMPDIR: string }> {
  const TMPDIR = join(await labDir(), 't');
  await mkdir(TMPDIR);
  return { TMPDIR };
}

async function expectRestored(lab: Scenario, point: string, { disks }: Serving): Promise<void> {
  const output = join(lab.dir, `restored-${point}`);
  await expectCli(0, ['restore', '--target', lab.target, '--point', point, '--output', output]);
  for (const { disk, uri } of disks) {
    await run('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', uri, join(output, `${disk}.qcow2`)]);
  }
}

async function marksIn(target: string): Promise<readonly string[]> {
  return (await readdir(target)).filter((name) => name.startsWith('open-'));
}

async function write(uri: string, at: string, pattern: string): Promise<void> {
  await run('qemu-io', ['-f', 'raw', '-c', `write -P ${pattern} ${at}`, '-c', 'flush', uri]);
}

async function isPattern(uri: string, at: string, pattern: string): Promise<boolean> {
  const { stdout } = await run('qemu-io', ['-f', 'raw', '-c', `read -P ${pattern} ${at}`, uri], { allowed: [0, 1] });
  return !stdout.includes('verification failed');
}

async function daemonsOf(tmp: string): Promise<readonly string[]> {
  const found = [];
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (command.includes(tmp) && command.includes('qemu-storage-daemon')) found.push(pid);
  }
  return found;
}

describe('serve', () => {
  it('serves each point as it is restored; backups and lists go on beside it, a rebase is refused', async () => {
    const lab = await withIncrements();
    const env = await temporary();
    const before = await photograph(lab.target);
    for (const point of ['0', '1', '2']) {
      const serving = await startServe(['--target', lab.target, '--point', point], env);
      expect(serving.disks.map(({ disk, files }) => [disk, files.length])).toEqual([
        ['d1', Number(point) + 1],
        ['d2', Number(point) + 1],
      ]);
      await expectRestored(lab, point, serving);
      expect(await serving.end(point === '0' ? 'SIGTERM' : 'SIGINT')).toBe(0);
    }
    expect(await photograph(lab.target)).toEqual(before);
    expect(await readdir(env.TMPDIR)).toEqual([]);

    const serving = await startServe(['--target', lab.target, '--point', '1', '--disk', 'd1'], env);
    expect(serving.disks.map(({ disk }) => disk)).toEqual(['d1']);
    expect(await marksIn(lab.target)).toHaveLength(1);
    await writeBoth(lab, 7, 0x77);
    await lab.backup('inc');
    await expectCli(0, ['list', '--target', lab.target]);
    const rebase = ['--json', 'rebase', '--target', lab.target, '--disk'];
    for (const more of [[], ['--dry-run'], ['--break-lock']]) {
      const { stderr } = await expectCli(11, [...rebase, 'd1', ...more]);
      expect(stderr).toMatch(new RegExp(`d1/FULL-\\d+.qcow2 is open: serve of point 1 \\(pid ${serving.pid} on `));
    }
    await expectCli(0, [...rebase, 'd2']);
    expect(await serving.end()).toBe(0);
    await expectCli(0, [...rebase, 'd1']);
    await lab.expectChainEqualsDisks();
    await lab.expectNothingLeft(2);
    expect(await marksIn(lab.target)).toEqual([]);
    expect(await readdir(env.TMPDIR)).toEqual([]);
  });

  it('begins at the same instant as others do, and as files are listed', async () => {
    const lab = await withFull();
    await lab.backup('inc');
    const asked = ['--target', lab.target];
    const all = await Promise.all([0, 1, 2, 3].map(() => startServe(asked)));
    expect(await marksIn(lab.target)).toHaveLength(4);
    const refused = await expectCli(11, ['rebase', ...asked, '--disk', 'd1']);
    expect(refused.stderr).toContain('is open: serve of point 1');
    for (const serving of all) {
      expect(await isPattern(serving.disks[0]?.uri ?? '', '0 1M', '0x11')).toBe(true);
      expect(await serving.end()).toBe(0);
    }
    await Promise.all([0, 1, 2, 3].map(() => expectCli(0, ['files', 'ls', ...asked])));
    expect(await marksIn(lab.target)).toEqual([]);
  });

  it('serves at a port of the loopback; one that is taken is an error', async () => {
    const lab = await withFull();
    const server = createServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => server.once('listening', resolve));
    const { port } = server.address() as { readonly port: number };
    const args = ['--target', lab.target, '--port', String(port)];
    expect((await expectCli(1, ['serve', ...args])).stderr).toMatch(/address already in use[^]*another port/);
    await new Promise((resolve) => server.close(resolve));
    const serving = await startServe(args);
    expect(serving.disks[0]?.uri).toBe(`nbd://127.0.0.1:${port}/d1`);
    await expectRestored(lab, '0', serving);
    expect(await serving.end()).toBe(0);
    await expectCli(2, ['serve', '--target', lab.target, '--port', '70000']);
  });

  it('takes writes into overlays, which stay, and go on; the backup stays as it is', async () => {
    const lab = await withIncrements();
    const before = await photograph(lab.target);
    const overlay = join(lab.dir, 'overlays');
    const args = ['--target', lab.target, '--overlay', overlay];
    const first = await startServe([...args, '--point', '1']);
    const uri = first.disks[0]!.uri;
    await write(uri, '9M 64k', '0x99');
    expect(await isPattern(uri, '9M 64k', '0x99')).toBe(true);
    const twice = await expectCli(11, ['serve', ...args, '--point', '1']);
    expect(twice.stderr).toMatch(/d1.qcow2 is in use/);
    expect(await first.end()).toBe(0);
    const again = await startServe([...args, '--point', '1']);
    expect(again.disks[0]!.overlay).toBe(join(overlay, 'd1.qcow2'));
    expect(await isPattern(again.disks[0]!.uri, '9M 64k', '0x99')).toBe(true);
    expect(await again.end('SIGKILL')).toBe(null);
    expect((await expectCli(13, ['serve', ...args, '--point', '2'])).stderr).toContain(`the overlays in ${overlay}`);
    expect(await readdir(overlay)).toEqual(['d1.qcow2', 'd2.qcow2', 'overlay.json']);
    await expectCli(13, ['serve', '--target', lab.target, '--overlay', lab.target]);
    const last = await startServe([...args, '--point', '1']);
    expect(await isPattern(last.disks[0]!.uri, '9M 64k', '0x99')).toBe(true);
    expect(await last.end()).toBe(0);
    expect(await photograph(lab.target)).toEqual(before);
    const { stderr } = await expectCli(13, ['serve', '--target', lab.target, '--overlay', '/proc/none/there']);
    expect(stderr).toContain('the folder /proc/none/there cannot be made');
  });

  it('goes on with overlays when the files of their point are others, or lie elsewhere, and with no other image', async () => {
    const lab = await withIncrements();
    const overlay = join(lab.dir, 'overlays');
    const made = ['--target', lab.target, '--overlay', overlay];
    const first = await startServe([...made, '--point', '2']);
    await write(first.disks[0]!.uri, '9M 64k', '0x99');
    expect(await first.end()).toBe(0);
    const restored = join(lab.dir, 'restored');
    await expectCli(0, ['restore', '--target', lab.target, '--point', '2', '--output', restored]);
    await run('qemu-io', ['-c', 'write -P 0x99 9M 64k', join(restored, 'd1.qcow2')]);
    await expectCli(0, ['consolidate', '--target', lab.target, '--keep', '1']);
    const moved = join(lab.dir, 'moved');
    await rename(lab.target, moved);
    const again = await startServe(['--target', moved, '--overlay', overlay, '--point', '2']);
    for (const { disk, uri } of again.disks)
      await run('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', uri, join(restored, `${disk}.qcow2`)]);
    expect(await again.end()).toBe(0);
    // Whoever gave it another image below it has changed what it is above.
    const other = join(lab.dir, 'other.qcow2');
    const args = ['serve', '--target', moved, '--overlay', overlay, '--point', '2'];
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', other, '64M']);
    await run('qemu-img', ['rebase', '-u', '-F', 'qcow2', '-b', other, join(overlay, 'd1.qcow2')]);
    expect((await expectCli(13, args)).stderr).toContain(`cannot be the overlay of d1: its backing file is ${other}`);
    // What nobody of ours has made is refused each time.
    await rm(join(overlay, 'overlay.json'));
    for (let run = 0; run < 2; run += 1)
      expect((await expectCli(13, args)).stderr).toContain('it was not made by a serve or boot');
  });

  it('serves from a folder that takes no lock and no mark, and says so', async () => {
    const lab = await withFull();
    const target = join(lab.dir, 'read-only');
    await mkdir(target);
    await run('mount', ['--bind', lab.target, target]);
    afterTest(() => run('umount', [target]));
    await run('mount', ['-o', 'remount,bind,ro', target]);
    const serving = await startServe(['--target', target]);
    expect(serving.warnings.map(({ code }) => code)).toEqual(['not-locked']);
    await expectRestored(lab, '0', serving);
    expect(await serving.end()).toBe(0);
  });

  it('never serves a point in which something is wrong', async () => {
    const lab = await withIncrements();
    const [full = ''] = await imagesIn(join(lab.target, 'd1'));
    const path = join(lab.target, 'd1', full);
    await rot(path);
    // As after a copy of the folder: the time tells that it was touched, and the bytes that it is another.
    await run('touch', [path]);
    const { stdout, stderr } = await expectCli(13, ['serve', '--target', lab.target]);
    expect([stdout, stderr]).toEqual(['', expect.stringContaining(full)]);
    await writeFile(path, 'no image');
    await expectCli(13, ['serve', '--target', lab.target]);
    expect(await marksIn(lab.target)).toEqual([]);
    await expectCli(10, ['serve', '--target', lab.dir]);
  });

  it('ends where nobody can be told where it serves', async () => {
    const lab = await withFull();
    const env = await temporary();
    const serve = `exec "$0" "$@" > /dev/full`;
    const args = ['-c', serve, process.execPath, PROGRAM, 'serve', '--target', lab.target];
    const { exitCode, stderr } = await execa('sh', args, { reject: false, env });
    expect([exitCode, stderr]).toEqual([1, expect.stringContaining('nobody can be told where it is served')]);
    expect(await readdir(env.TMPDIR)).toEqual([]);
    expect(await marksIn(lab.target)).toEqual([]);
  });

  it('lets nobody write to the backup, nor puts anything into its folders', async () => {
    const lab = await withFull();
    const before = await photograph(lab.target);
    const serving = await startServe(['--target', lab.target]);
    for (const command of ['write -P 9 0 64k', 'write -z 0 64k', 'discard 0 64k', 'aio_write -P 9 0 64k']) {
      await run('qemu-io', ['-f', 'raw', '-c', command, serving.disks[0]!.uri], { allowed: [0, 1] });
    }
    expect(await serving.end()).toBe(0);
    const disk = join(lab.target, 'd1');
    for (const inside of [disk, join(disk, 'not/there'), lab.target]) {
      await expectCli(13, ['serve', '--target', lab.target, '--overlay', inside]);
      await expectCli(13, ['restore', '--target', lab.target, '--output', inside]);
    }
    const to = ['--disk', 'd1', '--to', `d1=${join(disk, 'new')}`];
    await expectCli(13, ['restore', '--target', lab.target, ...to]);
    expect(await photograph(lab.target)).toEqual(before);
  });

  it('ends with an error where the daemon dies', async () => {
    const lab = await withFull();
    const env = await temporary();
    const started = await startServe(['--target', lab.target], env);
    const [daemon] = await daemonsOf(env.TMPDIR);
    process.kill(Number(daemon), 'SIGKILL');
    await sleep(500);
    expect(await started.end('SIGCONT')).toBe(1);
    expect(await readdir(env.TMPDIR)).toEqual([]);
    expect(await marksIn(lab.target)).toEqual([]);
  });

  it('killed at any moment leaves no daemon, and nothing that the next one does not clear', async () => {
    const lab = await withIncrements();
    const env = await temporary();
    for (const moment of [250, 350, 400, 450, 500, 550, 600, 700, 900, 1500]) {
      const child = startCli(['serve', '--target', lab.target], { env });
      await sleep(moment);
      child.kill('SIGKILL');
      await child;
      await expect.poll(() => daemonsOf(env.TMPDIR)).toEqual([]);
    }
    const killed = await startServe(['--target', lab.target], env);
    await killed.end('SIGKILL');
    await expect.poll(() => daemonsOf(env.TMPDIR)).toEqual([]);
    expect(await marksIn(lab.target)).not.toEqual([]);
    const serving = await startServe(['--target', lab.target], env);
    expect(await marksIn(lab.target)).toHaveLength(1);
    expect(await serving.end()).toBe(0);
    expect(await readdir(env.TMPDIR)).toEqual([]);
    expect((await readdir(lab.target)).filter((name) => name.startsWith('open-'))).toEqual([]);
    const last = await startServe(['--target', lab.target], env);
    await last.end('SIGKILL');
    await expectCli(0, ['rebase', '--target', lab.target, '--disk', 'd1']);
    expect(await marksIn(lab.target)).toEqual([]);
  });
});
