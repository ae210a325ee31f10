import { closeSync, openSync, readSync } from 'node:fs';
import { chmod, mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { describe, expect, it } from 'vitest';
import { photograph, rot } from '../support/chains.js';
import { expectCli, PROGRAM, qmpbackup, startCli } from '../support/cli.js';
import { run } from '../support/lab/programs.js';
import { MOMENTS } from '../support/moments.js';
import { daemonsOf, killDaemonsOf, type MountAnswer, mountsBelow, startMount } from '../support/mounting.js';
import { asNobody, openTo, runAsNobody } from '../support/nobody.js';
import { afterTest, labDir, type Scenario, withFull, writeBoth } from '../support/scenario.js';
import { imagesIn } from '../support/target-files.js';

// What is mounted is held against what is restored of the same point.

interface Place {
  readonly lab: Scenario;
  /** A folder for temporary files, to see what is left in it. */
  readonly env: { readonly TMPDIR: string };
  readonly at: string;
}

/** FULL and two increments of d1 and d2. */
async function place(): Promise<Place> {
  const lab = await withFull();
  for (const each of [3, 5]) {
    await writeBoth(lab, each, 0x10 + each);
    await lab.backup('inc');
  }
  const dir = await labDir();
  await mkdir(join(dir, 't'));
  const [env, at] = [{ TMPDIR: join(dir, 't') }, join(dir, 'mnt')];
  afterTest(() => qmpbackup(['umount', at], { env }));
  return { lab, env, at };
}

async function expectRestored({ lab }: Place, point: string, { disks }: Pick<MountAnswer, 'disks'>): Promise<void> {
  const output = join(lab.dir, `restored-${point}-${Math.random()}`);
  await expectCli(0, ['restore', '--target', lab.target, '--point', point, '--output', output]);
  for (const { disk, path } of disks) {
    const raw = `${output}/${disk}.raw`;
    await run('qemu-img', ['convert', '-O', 'raw', join(output, `${disk}.qcow2`), raw]);
    await run('cmp', [raw, path]);
    await rm(raw);
  }
}

async function marksIn(target: string): Promise<readonly string[]> {
  return (await readdir(target)).filter((name) => name.startsWith('open-'));
}

async function expectNothingLeft({ lab, env, at }: Place): Promise<void> {
  expect(mountsBelow(at)).toEqual([]);
  expect(await readdir(env.TMPDIR)).toEqual([]);
  expect(await marksIn(lab.target)).toEqual([]);
  expect(await daemonsOf(env.TMPDIR)).toEqual([]);
}

describe('mount', () => {
  it('shows each point as it is restored, read-only; what it made goes, and a folder that was there stays', async () => {
    const here = await place();
    const { lab, env, at } = here;
    const before = await photograph(lab.target);
    for (const point of ['0', '1', '2']) {
      const mounted = await startMount(['--target', lab.target, '--point', point, at], env);
      expect(mounted.disks.map(({ disk, path, files }) => [disk, path, files.length])).toEqual([
        ['d1', join(at, 'd1.raw'), Number(point) + 1],
        ['d2', join(at, 'd2.raw'), Number(point) + 1],
      ]);
      await expectRestored(here, point, mounted);
      const write = ['if=/dev/zero', `of=${join(at, 'd1.raw')}`, 'conv=notrunc', 'count=1'];
      expect((await run('dd', write, { allowed: [1] })).stderr).toContain('Permission denied');
      const rebase = await expectCli(11, ['rebase', '--target', lab.target, '--disk', 'd1']);
      expect(rebase.stderr).toContain(`mount of point ${point}`);
      expect(await mounted.end(point === '0' ? 'SIGTERM' : 'SIGINT')).toBe(0);
      await expect(readdir(at)).rejects.toThrow('ENOENT');
    }
    await mkdir(at);
    const mounted = await startMount(['--target', lab.target, '--disk', 'd2', at], env);
    expect(await readdir(at)).toEqual(['d2.raw']);
    // Somebody has it open: it ends all the same, and gives them an error rather than other bytes.
    const fd = openSync(join(at, 'd2.raw'), 'r');
    expect(await mounted.end()).toBe(0);
    expect(() => readSync(fd, Buffer.alloc(512))).toThrow('ENOTCONN');
    expect(() => closeSync(fd)).toThrow('ENOTCONN');
    expect(await readdir(at)).toEqual([]);
    await expectNothingLeft(here);
    expect(await photograph(lab.target)).toEqual(before);
  });

  it('goes on in the background until umount; backups go on beside it', async () => {
    const here = await place();
    const { lab, env, at } = here;
    const args = ['mount', '--target', lab.target, '--point', '1', '--background', at];
    const mounted = (await expectCli(0, ['--json', ...args], { env })).json<MountAnswer>();
    await expectRestored(here, '1', mounted);
    await writeBoth(lab, 7, 0x77);
    await lab.backup('inc');
    await expectRestored(here, '1', mounted);
    const ended = await expectCli(0, ['--json', 'umount', at], { env });
    expect(ended.json()).toMatchObject({ files: [join(at, 'd1.raw'), join(at, 'd2.raw')], dead: false });
    await expect(readdir(at)).rejects.toThrow('ENOENT');
    await expectNothingLeft(here);
    expect((await expectCli(1, ['umount', at], { env })).stderr).toContain(`nothing is mounted at ${at}`);

    const text = await expectCli(0, args, { env });
    expect(text.stdout).toContain('losetup --read-only --partscan');
    expect(text.stderr).toContain(`mounted until \`qmpbackup umount ${at}\``);
    await expectCli(0, ['umount', at], { env });
    // What fails in the process in the background is the failure of the command.
    await expectCli(10, ['mount', '--target', lab.dir, '--background', at], { env });
    await expectNothingLeft(here);
  });

  it('ends a mount in the foreground by umount, and by an umount of all its files that another program made', async () => {
    const here = await place();
    const { lab, env, at } = here;
    const first = await startMount(['--target', lab.target, at], env);
    await expectCli(0, ['umount', at], { env });
    expect(await first.ended).toBe(0);
    const second = await startMount(['--target', lab.target, at], env);
    await run('umount', [join(at, 'd1.raw')]);
    await expect.poll(() => readdir(at), { timeout: 10_000 }).toEqual(['d2.raw']);
    await run('cmp', ['-n', '512', join(at, 'd2.raw'), join(at, 'd2.raw')]);
    await run('umount', [join(at, 'd2.raw')]);
    expect(await second.ended).toBe(0);
    await expect(readdir(at)).rejects.toThrow('ENOENT');
    // A folder that was moved meanwhile is found where it is.
    const third = await startMount(['--target', lab.target, at], env);
    await rename(at, `${at}-moved`);
    expect(await third.end()).toBe(0);
    expect(mountsBelow(`${at}-moved`)).toEqual([]);
    await expect(readdir(`${at}-moved`)).rejects.toThrow('ENOENT');
    await expectNothingLeft(here);
  });

  it('refuses what is no empty folder, what belongs to a backup, and a point with something wrong', async () => {
    const here = await place();
    const { lab, env, at } = here;
    const refused = async (exitCode: number, mountpoint: string, words: string): Promise<void> => {
      const { stderr } = await expectCli(exitCode, ['mount', '--target', lab.target, mountpoint], { env });
      expect(stderr).toContain(words);
    };
    await refused(13, lab.dir, 'is not empty');
    await refused(13, join(lab.target, 'catalog.json'), 'cannot be mounted to');
    await refused(13, lab.target, 'is not empty');
    await refused(1, join(at, 'deeper'), 'cannot make');
    await expectCli(2, ['mount', '--target', lab.target], { env });
    await expectCli(2, ['mount', '--target', lab.target, ''], { env });
    const mounted = await startMount(['--target', lab.target, at], env);
    await refused(13, at, 'is not empty: there is "d1.raw"');
    await mounted.end();
    const [full = ''] = await imagesIn(join(lab.target, 'd1'));
    await rot(join(lab.target, 'd1', full));
    await run('touch', [join(lab.target, 'd1', full)]);
    await refused(13, at, full);
    await writeFile(join(lab.target, 'd1', full), 'no image');
    await refused(13, at, full);
    await expect(readdir(at)).rejects.toThrow('ENOENT');
    await expectNothingLeft(here);
  });

  it('ends with an error where the daemon dies', async () => {
    const here = await place();
    const { lab, env, at } = here;
    const mounted = await startMount(['--target', lab.target, at], env);
    for (const pid of await daemonsOf(env.TMPDIR)) process.kill(pid, 'SIGKILL');
    expect(await mounted.ended).toBe(1);
    await expect(readdir(at)).rejects.toThrow('ENOENT');
    await expectNothingLeft(here);
  });

  it('killed at any moment, the tool or its daemon, leaves nothing that the next command does not clear', async () => {
    const here = await place();
    const { lab, env, at } = here;
    const before = await photograph(lab.target);
    const clear = [
      async () => (await startMount(['--target', lab.target, at], env)).end(),
      // Nothing may be left for it to clear.
      () => qmpbackup(['umount', at], { env }),
    ];
    for (let round = 0; round < MOMENTS; round += 1) {
      const child = startCli(['mount', '--target', lab.target, at], { env });
      await sleep(200 + Math.random() * 1500);
      if (round % 3 === 2) await killDaemonsOf(env.TMPDIR);
      // Sometimes both.
      if (round % 6 !== 2) child.kill('SIGKILL');
      else child.kill('SIGTERM');
      await child;
      await expect.poll(() => daemonsOf(env.TMPDIR), { timeout: 10_000 }).toEqual([]);
      await clear[round % 2]!();
      expect(mountsBelow(at)).toEqual([]);
      expect(await foldersIn(env.TMPDIR)).toEqual([]);
      await expect(readdir(at)).rejects.toThrow('ENOENT');
    }
    // By what opens a point, too, and of a mount whose record is lost.
    const killed = await startMount(['--target', lab.target, at], env);
    const daemons = await daemonsOf(env.TMPDIR);
    process.kill(killed.pid, 'SIGSTOP');
    for (const pid of daemons) process.kill(pid, 'SIGKILL');
    await killed.end('SIGKILL');
    expect(mountsBelow(at)).toHaveLength(2);
    await rm(env.TMPDIR, { recursive: true });
    await mkdir(env.TMPDIR);
    const cleared = await expectCli(0, ['--json', 'umount', at], { env });
    expect(cleared.json()).toMatchObject({ dead: true });
    expect(await readdir(at)).toEqual([]);
    await (await startMount(['--target', lab.target, at], env)).end();
    await expectNothingLeft(here);
    expect(await photograph(lab.target)).toEqual(before);
  });

  it.each([
    ['in the foreground', []],
    ['in the background', ['--background']],
  ])('ends where nobody can be told where it is, %s', async (_, more) => {
    const here = await place();
    const { lab, env, at } = here;
    const command = ['mount', '--target', lab.target, ...more, at];
    const args = ['-c', 'exec "$0" "$@" > /dev/full', process.execPath, PROGRAM, ...command];
    const { exitCode, stderr } = await execa('sh', args, { reject: false, env });
    expect([exitCode, stderr]).toEqual([1, expect.stringContaining('nobody can be told where it is mounted')]);
    await expectNothingLeft(here);
  });

  it('leaves nothing where it cannot make its folder, or put anything into its own', async () => {
    const here = await place();
    const { lab, env } = here;
    const readOnly = join(await labDir(), 'read-only');
    await mkdir(readOnly);
    await run('mount', ['-t', 'tmpfs', '-o', 'ro', 'none', readOnly]);
    afterTest(() => run('umount', [readOnly]));
    for (const at of [readOnly, join(readOnly, 'new')]) {
      const { stderr } = await expectCli(13, ['mount', '--target', lab.target, at], { env });
      expect(stderr).toContain(`cannot make files in ${at}: read-only file system`);
    }
    // Of its two inodes one is the folder's, and the other may become one.
    await run('mount', ['-t', 'tmpfs', '-o', 'remount,rw,nr_inodes=2', 'none', readOnly]);
    const full = await expectCli(1, ['mount', '--target', lab.target, here.at], { env: { TMPDIR: readOnly } });
    expect(full.stderr).toMatch(/cannot create a private folder in .*: no space left on device/);
    expect(await readdir(readOnly)).toEqual([]);
    await expectNothingLeft(here);
  });

  it('is there for a user who is not root, who needs fusermount3', async () => {
    const here = await place();
    const { lab, at, env } = here;
    await chmod(lab.dir, 0o711);
    await chmod(dirname(at), 0o711);
    await openTo(lab.target, env.TMPDIR);
    const nobody = asNobody(env);
    const base = join(lab.dir, 'of-nobody');
    await mkdir(base);
    await openTo(base);
    const mine = join(base, 'mnt');
    const args = ['mount', '--target', lab.target, '--background', mine];
    const without = await nobody(args, { without: '/usr/bin/fusermount3' });
    expect(without).toMatchObject({ exitCode: 1, stderr: expect.stringContaining('apt install fuse3') as string });
    await expect(readdir(mine)).rejects.toThrow('ENOENT');
    const mounted = await nobody(args);
    expect(mounted).toMatchObject({ exitCode: 0 });
    expect(mounted.stdout).toContain('partitions, for root alone, who may read these files where /etc/fuse.conf');
    await run('head', ['-c', '1', join(mine, 'd1.raw')], { allowed: [1] });
    const output = join(base, 'restored');
    expect(await nobody(['restore', '--target', lab.target, '--output', output])).toMatchObject({ exitCode: 0 });
    await run('qemu-img', ['convert', '-O', 'raw', join(output, 'd1.qcow2'), join(output, 'd1.raw')]);
    await runAsNobody('cmp', [join(output, 'd1.raw'), join(mine, 'd1.raw')]);
    expect(await nobody(['umount', mine])).toMatchObject({ exitCode: 0 });
    await expect(readdir(mine)).rejects.toThrow('ENOENT');
    expect(await nobody(args)).toMatchObject({ exitCode: 0 });
    for (const pid of await daemonsOf(env.TMPDIR)) process.kill(pid, 'SIGKILL');
    await expect.poll(() => mountsBelow(mine), { timeout: 10_000 }).toEqual([]);
    await expect.poll(() => readdir(env.TMPDIR), { timeout: 10_000 }).toEqual([]);
    // What was read last is proved before it lets go of the backup.
    await expect.poll(() => marksIn(lab.target), { timeout: 10_000 }).toEqual([]);
    await expectNothingLeft({ lab, at: mine, env });
    expect(mountsBelow(at)).toEqual([]);
  });
});

/** But for one whose maker was killed before it had said whose it is: that goes after a minute. */
async function foldersIn(tmp: string): Promise<readonly string[]> {
  const folders = await readdir(tmp);
  const filled = await Promise.all(folders.map(async (each) => (await readdir(join(tmp, each))).length > 0));
  return folders.filter((_, index) => filled[index]);
}
