import { randomBytes } from 'node:crypto';
import { chmod, mkdir, readdir, readFile, readlink, rm, stat, symlink, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { describe, expect, it } from 'vitest';
import { photograph, rot } from '../support/chains.js';
import { expectCli, PROGRAM, startCli } from '../support/cli.js';
import { changeFiles, ext4Of, NAMES, sumOf, writePartition, writeTable } from '../support/guest-disk.js';
import { writeFile as writeRange } from '../support/lab/guest-writes.js';
import { run } from '../support/lab/programs.js';
import { MOMENTS } from '../support/moments.js';
import { daemonsOf, killDaemonsOf, mountsBelow } from '../support/mounting.js';
import { asNobody, openTo } from '../support/nobody.js';
import { type BackupAnswer, labDir, scenario, type Scenario } from '../support/scenario.js';
import { MiB } from '../support/builders.js';

/** What `files` reads with sleuthkit, against the files that the file systems were made of. */
interface Place {
  readonly lab: Scenario;
  readonly env: { readonly TMPDIR: string };
  readonly args: readonly string[];
}

async function place(): Promise<Place> {
  const lab = await scenario([{ id: 'd1', size: 96 * MiB }]);
  const dir = await labDir();
  await writeTable(lab, 'd1');
  return { lab, env: { TMPDIR: dir }, args: ['--target', lab.target] };
}

async function expectNothingLeft({ lab, env }: Place): Promise<void> {
  expect(await readdir(env.TMPDIR)).toEqual([]);
  expect(mountsBelow(env.TMPDIR)).toEqual([]);
  expect(await daemonsOf(env.TMPDIR)).toEqual([]);
  expect((await readdir(lab.target)).filter((name) => name.startsWith('open-'))).toEqual([]);
}

async function sums(folder: string): Promise<readonly string[]> {
  return Promise.all(NAMES.map((name) => sumOf(join(folder, 'data', name))));
}

/** Of d1. */
function fileOf({ point }: BackupAnswer): string {
  return point.disks.find(({ disk }) => disk === 'd1')?.file ?? '';
}

describe('files', () => {
  it('gets 20 files of ext4 on a partition right at every point, and finds the points where they changed', async () => {
    const here = await place();
    const { lab, env, args } = here;
    const [state, image] = [join(lab.dir, 'state'), join(lab.dir, 'ext4.raw')];
    const expected: (readonly string[])[] = [];
    const all = NAMES.map((_, index) => index);
    for (const [point, which] of [all, [3, 4], [4, 19]].entries()) {
      await changeFiles(state, which);
      if (point === 0) {
        await mkdir(join(state, 'data/deeper'));
        await symlink('../file-1.bin', join(state, 'data/deeper/short'));
        await symlink(`/${'x'.repeat(200)}`, join(state, 'data/deeper/long'));
        await writeFile(join(state, 'data/deeper/a|b -> ü'), 'odd');
        await chmod(join(state, 'data/file-2.bin'), 0o4751);
        await run('chown', ['1234:567', join(state, 'data/file-0.bin')]);
        for (const name of NAMES) await utimes(join(state, 'data', name), 1_500_000_000, 1_500_000_000);
      }
      await ext4Of(state, image);
      await writePartition(lab, 'd1', 1, image);
      await lab.backup(point === 0 ? 'full' : 'inc');
      expected.push(await sums(state));
    }
    const before = await photograph(lab.target);
    for (const [point, right] of expected.entries()) {
      const output = join(lab.dir, `got-${point}`);
      const got = await expectCli(
        0,
        ['--json', 'files', 'get', ...args, '--point', `${point}`, '-o', output, '/data'],
        { env },
      );
      expect(got.json<{ files: unknown[] }>().files).toHaveLength(25);
      expect(await sums(output)).toEqual(right);
    }
    const output = join(lab.dir, 'got-2');
    await run('diff', ['-r', '--no-dereference', join(state, 'data'), join(output, 'data')]);
    expect(await readlink(join(output, 'data/deeper/long'))).toBe(`/${'x'.repeat(200)}`);
    const [two, zero] = await Promise.all(['file-2.bin', 'file-0.bin'].map((name) => stat(join(output, 'data', name))));
    expect([two!.mode & 0o7777, two!.mtimeMs]).toEqual([0o4751, 1_500_000_000_000]);
    expect([zero!.uid, zero!.gid]).toEqual([1234, 567]);
    // The same as an archive.
    const archive = join(lab.dir, 'archive.tar');
    await mkdir(join(lab.dir, 'from-tar'));
    const { stdout } = await expectCli(0, ['files', 'get', ...args, '--tar', '/data'], { env, encoding: 'latin1' });
    await writeFile(archive, stdout, 'latin1');
    await run('tar', ['-xf', archive, '-C', join(lab.dir, 'from-tar')]);
    await run('diff', ['-r', '--no-dereference', join(state, 'data'), join(lab.dir, 'from-tar/data')]);
    expect((await stat(join(lab.dir, 'from-tar/data/file-2.bin'))).mode & 0o7777).toBe(0o4751);

    const find = await expectCli(0, ['--json', 'files', 'find', ...args, '--name', 'file-*.bin', '/data'], { env });
    const { found, points } = find.json<{
      points: string[];
      found: { path: string; states: { point: string; state: string }[] }[];
    }>();
    expect(points).toEqual(['point 0', 'point 1', 'point 2']);
    const changed = Object.fromEntries(
      found.map(({ path, states }) => [
        path,
        states.filter(({ state: each }) => each !== 'same').map(({ point }) => point),
      ]),
    );
    expect(Object.keys(changed)).toHaveLength(20);
    expect(changed['/data/file-19.bin']).toContain('point 2');
    expect(changed['/data/file-3.bin']).toContain('point 1');
    expect(await photograph(lab.target)).toEqual(before);
    await expectNothingLeft(here);
  });

  it('finds a file in the points that are whole, and says which are not', async () => {
    const lab = await scenario([
      { id: 'd1', size: 8 * MiB },
      { id: 'd2', size: 8 * MiB },
    ]);
    const [state, image] = [join(lab.dir, 'state'), join(lab.dir, 'ext2.raw')];
    await mkdir(state);
    const change = async (bytes: number | null): Promise<void> => {
      if (bytes === null) await rm(join(state, 'file'));
      else await writeFile(join(state, 'file'), randomBytes(bytes));
      await rm(image, { force: true });
      await run('mke2fs', ['-q', '-t', 'ext2', '-d', state, image, '2M']);
      await writeRange(lab.vm, 'd1', { offset: 0, length: 2 * MiB, file: image });
    };
    await change(1000);
    const files = [fileOf(await lab.backup('full'))];
    await change(2000);
    files.push(fileOf(await lab.backup('inc')));
    await lab.backup('inc', '--exclude', 'd1');
    await change(null);
    files.push(fileOf(await lab.backup('inc')));
    const find = async (exitCode: number) => {
      const asked = ['--json', 'files', 'find', '--target', lab.target, '--name', 'file'];
      const { points, found, skipped } = (await expectCli(exitCode, asked)).json<{
        points: string[];
        found: { states: { point: string; state: string }[] }[];
        skipped: { point: string; damaged: boolean }[];
      }>();
      const states = found.flatMap((each) => each.states.map(({ point, state }) => `${point} ${state}`));
      return { points, states, skipped: skipped.map(({ point, damaged }) => [point, damaged]) };
    };
    // Point 2 does not have the disk: nothing is gone there.
    expect(await find(0)).toEqual({
      ...{ points: ['point 0', 'point 1', 'point 2', 'point 3'], skipped: [] },
      states: ['point 0 first', 'point 1 changed', 'point 3 gone'],
    });
    const path = (index: number): string => join(lab.target, 'd1', files[index] ?? '');
    await rot(path(2));
    expect(await find(4)).toEqual({
      ...{ points: ['point 0', 'point 1', 'point 2'], skipped: [['point 3', true]] },
      states: ['point 0 first', 'point 1 changed'],
    });
    await rm(path(1));
    expect(await find(3)).toEqual({
      ...{ points: ['point 0', 'point 2'], states: ['point 0 first'] },
      skipped: [
        ['point 1', false],
        ['point 3', false],
      ],
    });
    await rm(path(0));
    await rm(join(lab.target, 'd2'), { recursive: true });
    await expectCli(13, ['files', 'find', '--target', lab.target, '--name', 'file']);
  });

  it('reads FAT and NTFS, says where a path is when it is on several, and lists what there is', async () => {
    const here = await place();
    const { lab, env, args } = here;
    const state = join(lab.dir, 'state');
    await changeFiles(state, [1, 2]);
    const [ext4, fat, ntfs] = ['ext4', 'fat', 'ntfs'].map((name) => join(lab.dir, `${name}.raw`)) as [
      string,
      string,
      string,
    ];
    await ext4Of(state, ext4);
    await writePartition(lab, 'd1', 1, ext4);
    for (const raw of [fat, ntfs]) await run('truncate', ['-s', String(20 * MiB), raw]);
    await run('mkfs.vfat', ['-F', '16', fat]);
    await run('mmd', ['-i', fat, '::data']);
    await run('mcopy', ['-i', fat, join(state, 'data/file-1.bin'), '::data/A long name.bin']);
    await writePartition(lab, 'd1', 2, fat);
    await run('mkntfs', ['--quick', '--force', '--quiet', ntfs]);
    await run('ntfscp', ['-q', '-f', ntfs, join(state, 'data/file-2.bin'), 'windows.bin']);
    await writePartition(lab, 'd1', 3, ntfs);
    await lab.backup('full');

    const volumes = (await expectCli(0, ['--json', 'files', 'ls', ...args], { env })).json<{ volumes: object[] }>()
      .volumes;
    expect(volumes).toMatchObject([
      { disk: 'd1', name: '1', type: 'ext', reader: 'sleuthkit', size: 40 * MiB },
      { name: '2', type: 'vfat', reader: 'sleuthkit' },
      { name: '3', type: 'ntfs', reader: 'sleuthkit' },
    ]);
    const twice = await expectCli(2, ['files', 'ls', ...args, '/data'], { env });
    expect(twice.stderr).toMatch(/on several file systems: d1, partition 1, d1, partition 2\n.*--partition N/);
    const output = join(lab.dir, 'got');
    await expectCli(0, ['files', 'get', ...args, '-o', output, '/DATA/a long name.bin', '/windows.bin'], { env });
    expect(await sumOf(join(output, 'A long name.bin'))).toBe(await sumOf(join(state, 'data/file-1.bin')));
    expect(await sumOf(join(output, 'windows.bin'))).toBe(await sumOf(join(state, 'data/file-2.bin')));
    const again = await expectCli(13, ['files', 'get', ...args, '-o', output, '/windows.bin'], { env });
    expect(again.stderr).toContain('windows.bin is there already');
    const root = await expectCli(0, ['files', 'ls', ...args, '--partition', '3', '/'], { env });
    expect(root.stdout).toContain('/windows.bin');
    expect(root.stdout).not.toContain('$MFT');
    expect((await expectCli(1, ['files', 'ls', ...args, '/none'], { env })).stderr).toContain('there is no /none');
    const named = (await expectCli(0, ['--json', 'files', 'ls', ...args, '/windows.bin'], { env })).json();
    expect(named).toMatchObject({
      volume: { disk: 'd1', name: '3', type: 'ntfs' },
      files: [{ disk: 'd1', partition: '3', path: '/windows.bin' }],
      warnings: [],
    });
    const found = await expectCli(0, ['--json', 'files', 'find', ...args, '--name', '*.bin', '/data'], { env });
    expect(found.json<{ found: object[] }>().found).toMatchObject([
      { disk: 'd1', partition: '1', path: '/data/file-1.bin' },
      { disk: 'd1', partition: '1', path: '/data/file-2.bin' },
      { disk: 'd1', partition: '2', path: '/data/A long name.bin' },
    ]);
    await expectCli(2, ['files', 'ls', ...args, 'relative'], { env });
    await expectCli(2, ['files', 'get', ...args, '/data'], { env });
    await expectCli(2, ['--json', 'files', 'get', ...args, '--tar', '/windows.bin'], { env });
    await expectNothingLeft(here);
  });

  it('says what it has not looked at, writes no two files of one name, and reads no folder twice', async () => {
    const here = await place();
    const { lab, env, args } = here;
    const [state, image] = [join(lab.dir, 'state'), join(lab.dir, 'ext4.raw')];
    for (const folder of ['twins', 'sub/deeper']) await mkdir(join(state, 'data', folder), { recursive: true });
    for (const name of ['twins/AAAA1x', 'twins/AAAA1y', 'sub/deeper/file'])
      await writeFile(join(state, 'data', name), name.slice(-1));
    await ext4Of(state, image, ['-O', '^metadata_csum,^dir_index']);
    const bytes = await readFile(image, 'latin1');
    // sleuthkit tells control characters alike.
    const twins = bytes.replaceAll('AAAA1x', 'AAAA1\x01').replaceAll('AAAA1y', 'AAAA1\x02');
    await writeFile(image, twins, 'latin1');
    for (const link of ['/data /data/sub/deeper/again', '/data/sub /data/other', '/ /data/sub/top'])
      await run('debugfs', ['-w', '-R', `link ${link}`, image]);
    await writePartition(lab, 'd1', 1, image);
    const volumes = join(lab.dir, 'lvm.raw');
    await writeFile(volumes, `${'\0'.repeat(512)}LABELONE`);
    await writePartition(lab, 'd1', 2, volumes);
    await lab.backup('full');
    const output = join(lab.dir, 'got');
    const got = await expectCli(3, ['--json', 'files', 'get', ...args, '-o', output, '/data'], { env });
    const { leftOut, files, warnings } = got.json<{
      leftOut: string[];
      files: { path: string; disk: string; partition: string }[];
      warnings: { code: string; text: string }[];
    }>();
    expect(leftOut).toContain('/data/twins/AAAA1^');
    expect(files.filter(({ path }) => path.endsWith('/file'))).toMatchObject([{ disk: 'd1', partition: '1' }]);
    expect(warnings).toContainEqual({
      code: 'not-looked-at',
      text: 'd1, partition 2 was not looked at: only libguestfs reads lvm (--reader guestfs)',
    });
    expect(['x', 'y']).toContain(await readFile(join(output, 'data/twins/AAAA1^'), 'utf8'));
    const named = await expectCli(0, ['files', 'ls', ...args, '--partition', '1', '/data'], { env });
    expect(named.stderr).toBe('');
    const archive = join(lab.dir, 'all.tar');
    const shell = ['-c', '"$0" "$@" >"$ARCHIVE"', process.execPath, PROGRAM, 'files', 'get', ...args, '--tar', '/'];
    const all = await execa('sh', shell, { reject: false, env: { ...env, ARCHIVE: archive } });
    expect(all.exitCode).toBe(3);
    const names = (await run('tar', ['-tf', archive])).stdout.trim().split('\n');
    expect(names).toEqual([...new Set(names)]);
    expect(names.filter((name) => name.endsWith('/file'))).toHaveLength(1);
    const find = ['files', 'find', ...args, '--name', 'file', '--reader', 'sleuthkit'];
    expect((await expectCli(3, ['--json', ...find], { env })).json<{ found: object[] }>().found).toHaveLength(1);
    const twice = ['files', 'get', ...args, '-o', join(lab.dir, 'twice'), '/data/sub', '/data/other', '/data/sub'];
    expect((await expectCli(2, twice, { env })).stderr).toContain('two of the paths would be written as sub');
    // A reader that goes.
    const head = ['-o', 'pipefail', '-c', '"$0" "$@" | head -c 10', process.execPath, PROGRAM, ...shell.slice(4)];
    const gone = await execa('bash', head, { reject: false, env: { ...env, NO_COLOR: '1' } });
    expect([gone.exitCode, gone.stderr]).toEqual([
      1,
      expect.stringMatching(/^error: whoever reads stdout has gone before its end$/m),
    ]);
    expect(gone.stderr).not.toContain('    at ');
    await expectNothingLeft(here);
  });

  it('has the changes that are in a journal alone, and hands out nothing wrong of a damaged file system', async () => {
    const here = await place();
    const { lab, env, args } = here;
    const [state, image] = [join(lab.dir, 'state'), join(lab.dir, 'ext4.raw')];
    await mkdir(state);
    await writeFile(join(state, 'file'), 'before');
    await writeFile(join(state, 'big'), 'x'.repeat(100_000));
    await ext4Of(state, image);
    const block = (await run('debugfs', ['-R', 'blocks /file', image])).stdout.trim();
    const content = Buffer.alloc(1024);
    content.write('behind');
    await writeFile(join(lab.dir, 'block'), content);
    await writeFile(join(lab.dir, 'commands'), `jo\njw -b ${block} ${join(lab.dir, 'block')}\njc\n`);
    await run('debugfs', ['-w', '-f', join(lab.dir, 'commands'), image]);
    await writePartition(lab, 'd1', 1, image);
    await lab.backup('full');
    const before = await photograph(lab.target);
    const output = join(lab.dir, 'got');
    await expectCli(0, ['files', 'get', ...args, '-o', output, '/file'], { env });
    expect(await readFile(join(output, 'file'), 'utf8')).toBe('behind');
    expect(await photograph(lab.target)).toEqual(before);

    await run('debugfs', ['-w', '-R', 'sif /big size 90000000', image]);
    await writePartition(lab, 'd1', 1, image);
    await lab.backup('inc');
    const { stderr } = await expectCli(1, ['files', 'get', ...args, '-o', output, '/big'], { env });
    expect(stderr).toMatch(/big cannot be read: /);
    expect(await readdir(output)).toEqual(['file']);
    await expectNothingLeft(here);
  });

  it('never writes outside of its folder, whatever names and links a guest has', async () => {
    const here = await place();
    const { lab, env, args } = here;
    const [state, image] = [join(lab.dir, 'state'), join(lab.dir, 'ext4.raw')];
    await mkdir(join(state, 'data'), { recursive: true });
    await writeFile(join(state, 'data/AAAAAAevil'), 'evil');
    await writeFile(join(state, 'data/good'), 'good');
    await symlink('/etc/passwd', join(state, 'data/absolute'));
    await symlink('../../..', join(state, 'data/upwards'));
    await run('mkfifo', [join(state, 'data/fifo')]);
    await ext4Of(state, image, ['-O', '^metadata_csum,^dir_index']);
    const bytes = await readFile(image, 'latin1');
    await writeFile(image, bytes.replaceAll('AAAAAAevil', '../../evil'), 'latin1');
    await writePartition(lab, 'd1', 1, image);
    await lab.backup('full');
    const base = join(lab.dir, 'base');
    await mkdir(join(base, 'inner'), { recursive: true });
    const got = await expectCli(3, ['--json', 'files', 'get', ...args, '-o', join(base, 'inner'), '/data'], { env });
    expect(got.json<{ leftOut: string[] }>().leftOut.toSorted()).toEqual(['/data/../../evil', '/data/fifo']);
    expect(await readdir(base)).toEqual(['inner']);
    expect((await readdir(join(base, 'inner/data'))).toSorted()).toEqual(['absolute', 'good', 'upwards']);
    expect(await readlink(join(base, 'inner/data/absolute'))).toBe('/etc/passwd');
    // A link that is in the way is not followed either.
    await mkdir(join(base, 'other'));
    await symlink(base, join(base, 'other/data'));
    await expectCli(13, ['files', 'get', ...args, '-o', join(base, 'other'), '/data'], { env });
    await expectCli(13, ['files', 'get', ...args, '-o', lab.target, '/data/good'], { env });
    await expectNothingLeft(here);
  });

  it('killed at any moment leaves nothing that the next command does not clear', async () => {
    const here = await place();
    const { lab, env, args } = here;
    const [state, image] = [join(lab.dir, 'state'), join(lab.dir, 'ext4.raw')];
    await changeFiles(state, [1]);
    await ext4Of(state, image);
    await writePartition(lab, 'd1', 1, image);
    await lab.backup('full');
    const before = await photograph(lab.target);
    for (let round = 0; round < MOMENTS; round += 1) {
      const child = startCli(['files', 'ls', ...args, '/data'], { env });
      await sleep(100 + Math.random() * 900);
      if (round % 4 === 3) await killDaemonsOf(env.TMPDIR);
      child.kill(round % 4 === 2 ? 'SIGINT' : 'SIGKILL');
      await child;
      await expect.poll(() => daemonsOf(env.TMPDIR)).toEqual([]);
      if (round % 4 !== 3) continue;
      await expectCli(0, ['files', 'ls', ...args, '/data'], { env });
      expect(mountsBelow(env.TMPDIR)).toEqual([]);
    }
    await expectCli(0, ['files', 'ls', ...args, '/data'], { env });
    for (const left of await readdir(env.TMPDIR)) expect(await readdir(join(env.TMPDIR, left))).toEqual([]);
    expect((await readdir(lab.target)).filter((name) => name.startsWith('open-'))).toEqual([]);
    expect(await photograph(lab.target)).toEqual(before);
  });

  it('is for a user who is not root, and says which package is missing', async () => {
    const here = await place();
    const { lab, env, args } = here;
    const [state, image] = [join(lab.dir, 'state'), join(lab.dir, 'ext4.raw')];
    await changeFiles(state, [7]);
    await ext4Of(state, image);
    await writePartition(lab, 'd1', 1, image);
    await lab.backup('full');
    const base = join(lab.dir, 'of-nobody');
    await mkdir(base);
    await chmod(lab.dir, 0o711);
    await openTo(lab.target, env.TMPDIR, base);
    const nobody = asNobody(env);
    const get = ['files', 'get', ...args, '-o', join(base, 'got'), '/data/file-7.bin'];
    expect(await nobody(get)).toMatchObject({ exitCode: 0, stderr: '' });
    expect(await sumOf(join(base, 'got/file-7.bin'))).toBe(await sumOf(join(state, 'data/file-7.bin')));
    const bare = join(base, 'bin');
    await mkdir(bare);
    for (const name of ['setpriv', 'sh', 'qemu-storage-daemon', 'qemu-img', 'fusermount3']) {
      const { stdout } = await run('sh', ['-c', `command -v ${name}`]);
      await symlink(stdout.trim(), join(bare, name));
    }
    const ls = ['files', 'ls', ...args, '/data'];
    const sleuthkit = await nobody(ls, { path: bare });
    expect(sleuthkit).toMatchObject({
      exitCode: 1,
      stderr: expect.stringContaining('apt install sleuthkit') as string,
    });
    const guestfs = await nobody([...ls, '--reader', 'guestfs'], { path: bare });
    expect(guestfs).toMatchObject({
      exitCode: 1,
      stderr: expect.stringContaining('apt install libguestfs-tools') as string,
    });
    await expectNothingLeft(here);
  });
});
