import { lstat, mkdir, mkdtemp, readFile, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { RestoreRequest } from '../../src/operations/restore/options.js';
import type { RestoreDeps, RestoreEvent } from '../../src/operations/restore/request.js';
import { defaultRestoreDeps, restore } from '../../src/operations/restore/restore.js';
import { sha256File } from '../../src/repository/digest.js';
import { MiB } from '../support/builders.js';
import {
  expectSame,
  filesIn,
  type Lab,
  makeDisk,
  makeLab,
  photograph,
  pointsOf,
  record,
  refusal,
  rot,
} from '../support/chains.js';
import { run } from '../support/lab/programs.js';
import { loopDevice } from '../support/loop-device.js';
import { mountSmall } from '../support/mounts.js';
import { afterTest } from '../support/scenario.js';

/** Where disks are restored to: images of each format, and block devices, all of whose bytes were 0xff. */

async function twoDisks(): Promise<Lab> {
  const lab = await makeLab();
  const steps = (pattern: number) => [
    { file: 'FULL-100.qcow2', io: [`write -P ${pattern} 0 6M`, 'write -P 9 15M 1M'] },
    {
      file: 'INC-101.qcow2',
      on: 'FULL-100.qcow2',
      io: [`write -P 3 ${pattern}M 1M`, 'write -z 3M 1M', 'write -P 0 4M 64k'],
    },
  ];
  await record(lab, pointsOf(await makeDisk(lab, 'vda', steps(1)), await makeDisk(lab, 'vdb', steps(2))));
  return lab;
}

interface Call extends Partial<RestoreRequest> {
  readonly deps?: Partial<RestoreDeps>;
  readonly events?: RestoreEvent[];
}

function bring({ target }: Lab, { deps, events = [], ...request }: Call): ReturnType<typeof restore> {
  return restore(
    { target, ...request },
    { report: (event) => void events.push(event) },
    { ...defaultRestoreDeps, ...deps },
  );
}

async function rawIsSame(path: string, flat: string, more = 0): Promise<void> {
  const { size } = await stat(flat);
  await run('cmp', ['-n', String(size), path, flat]);
  if (more > 0) await run('cmp', ['-i', `${size}:0`, '-n', String(more), path, '/dev/zero']);
}

const newest = (lab: Lab, disk: string): string => lab.flat(disk, 'INC-101.qcow2');

/** Every byte is as it was made. */
async function isUntouched(device: string, bytes: number): Promise<void> {
  await run('sh', ['-c', `head -c ${bytes} /dev/zero | tr '\\0' '\\377' | cmp -n ${bytes} - "$0"`, device]);
}

describe('images', () => {
  it('are raw where that is asked for, with holes where the disk has nothing', async () => {
    const lab = await twoDisks();
    const output = join(lab.root, 'out');
    const result = await bring(lab, { output, format: 'raw' });
    expect(result).toMatchObject({ compared: true, disks: [{ format: 'raw' }, { format: 'raw' }] });
    expect(await filesIn(output)).toEqual(['machine.json', 'vda.raw', 'vdb.raw']);
    for (const disk of ['vda', 'vdb']) {
      const path = join(output, `${disk}.raw`);
      await rawIsSame(path, newest(lab, disk));
      const { size, blocks, mode } = await stat(path);
      expect([size, mode & 0o777]).toEqual([16 * MiB, 0o600]);
      expect(blocks * 512).toBeLessThanOrEqual(8 * MiB);
    }
    const machine = JSON.parse(await readFile(join(output, 'machine.json'), 'utf8')) as { disks: unknown };
    expect(machine.disks).toMatchObject([{ file: 'vda.raw', format: 'raw' }, { file: 'vdb.raw' }]);
  });

  it('that do not fit leave nothing', async () => {
    const lab = await twoDisks();
    const small = join(lab.root, 'small');
    await mountSmall(small, 9 * MiB);
    for (const format of ['raw', 'qcow2'] as const) {
      const refused = await refusal(bring(lab, { output: join(small, 'out'), format }));
      expect(refused.message).toMatch(/No space left/);
      expect(await filesIn(small)).toEqual([]);
    }
  });

  it('go to places of their own, which need no folder for the rest', async () => {
    const lab = await twoDisks();
    const to = { vda: join(lab.root, 'a/new.img'), vdb: join(lab.root, 'b.img') };
    const result = await bring(lab, { to, format: 'raw' });
    expect(result).toMatchObject({ output: null, machine: null });
    await rawIsSame(to.vda, newest(lab, 'vda'));
    expect(await filesIn(join(lab.root, 'a'))).toEqual(['new.img']);
    const output = join(lab.root, 'out');
    await bring(lab, { to: { vda: join(lab.root, 'c.qcow2') }, output });
    expect(await filesIn(output)).toEqual(['machine.json', 'vdb.qcow2']);
    await expectSame(join(lab.root, 'c.qcow2'), newest(lab, 'vda'));
  });

  it('replace what has their name only where that is asked for, and when they are whole', async () => {
    const lab = await twoDisks();
    const path = join(lab.root, 'there.qcow2');
    await writeFile(path, 'precious');
    const call = { disks: ['vda'], to: { vda: path } };
    expect(await refusal(bring(lab, call))).toMatchObject({
      code: 'unsafe',
      hint: expect.stringMatching('--overwrite') as string,
    });
    const convert = (): Promise<never> => Promise.reject(new Error('it broke'));
    await expect(bring(lab, { ...call, overwrite: true, deps: { convert } })).rejects.toThrow('it broke');
    expect(await readFile(path, 'utf8')).toBe('precious');
    expect((await filesIn(lab.root)).filter((name) => name.startsWith('there'))).toEqual(['there.qcow2']);
    await bring(lab, { ...call, overwrite: true });
    await expectSame(path, newest(lab, 'vda'));
    for (const name of ['folder', 'pipe', 'link', 'dangling']) {
      const odd = join(lab.root, name);
      if (name === 'folder') await mkdir(odd);
      else if (name === 'pipe') await run('mkfifo', [odd]);
      else await symlink(name === 'link' ? path : '/nowhere/to', odd);
      const refused = await refusal(bring(lab, { ...call, to: { vda: odd }, overwrite: true }));
      expect([refused.code, refused.message]).toEqual([
        'unsafe',
        expect.stringContaining('neither a block device nor a plain file'),
      ]);
    }
    expect((await refusal(bring(lab, { ...call, to: { vda: join(lab.folder('vda'), 'x') } }))).code).toBe('unsafe');
  });

  it('never share a place, whatever it is called there', async () => {
    const lab = await twoDisks();
    await symlink(lab.root, join(lab.root, 'same'));
    const to = { vda: join(lab.root, 'x'), vdb: join(lab.root, 'same/x') };
    expect(await refusal(bring(lab, { to }))).toMatchObject({
      code: 'usage',
      message: expect.stringContaining('over each other') as string,
    });
    const output = join(lab.root, 'out');
    expect((await refusal(bring(lab, { output, to: { vda: join(output, 'vdb.qcow2') } }))).message).toContain(
      'over each other',
    );
    expect((await refusal(bring(lab, { to: { vda: join(lab.root, 'x') } }))).message).toBe(
      'nothing says where vdb is to be restored',
    );
    expect((await refusal(bring(lab, { output, to: { vdx: '/x' } }))).message).toContain('vdx is no disk');
    expect((await refusal(bring(lab, { output, disks: ['vdb'], to: { vda: '/x' } }))).message).toContain(
      'vda is no disk',
    );
    await expect(stat(output)).rejects.toThrow('ENOENT');
  });

  it('are compared with the backup, and go where storage has altered them', async () => {
    const lab = await twoDisks();
    const output = join(lab.root, 'out');
    const syncFile: RestoreDeps['syncFile'] = async (path) => {
      await defaultRestoreDeps.syncFile(path);
      const format = path.includes('.raw') ? 'raw' : 'qcow2';
      if (path.includes('vdb')) await run('qemu-io', ['-f', format, '-c', 'write -P 0x77 2M 512', path]);
    };
    for (const format of ['qcow2', 'raw'] as const) {
      const refused = await refusal(bring(lab, { output, format, deps: { syncFile } }));
      expect(refused.message).toBe(
        `what was written to ${join(output, `vdb.${format}`)} is not what was read from the backup`,
      );
      await expect(stat(output)).rejects.toThrow('ENOENT');
    }
    const compare = (): Promise<never> => Promise.reject(new Error('it compares'));
    const result = await bring(lab, { output, verify: false, deps: { compare } });
    expect(result.compared).toBe(false);
    await expectSame(join(output, 'vda.qcow2'), newest(lab, 'vda'));
  });

  it('belong to whom they are given, with all that is made for them', async () => {
    const lab = await twoDisks();
    const output = join(lab.root, 'out/er');
    await bring(lab, { output, owner: 'nobody' });
    for (const name of ['', 'vda.qcow2', 'vdb.qcow2', 'machine.json', '..']) {
      const { uid, gid } = await stat(join(output, name));
      expect([name, uid, gid]).toEqual([name, 65534, 65534]);
    }
    expect((await stat(lab.root)).uid).toBe(process.getuid?.());
    await bring(lab, { disks: ['vda'], to: { vda: join(lab.root, 'x') }, owner: '12345:daemon' });
    expect(await stat(join(lab.root, 'x'))).toMatchObject({ uid: 12345, gid: 1 });
    for (const owner of ['nobody-here', 'nobody:nothing-here', '12345', ':daemon', 'a:b:c', '-1', '4294967295:0']) {
      expect((await refusal(bring(lab, { output: join(lab.root, 'never'), owner }))).message).toContain(
        `--owner ${owner}`,
      );
    }
  });
});

describe('block devices', () => {
  it('are written over to their last byte, also by a link; what they are called is kept', async () => {
    const lab = await twoDisks();
    const [a, b] = [
      await loopDevice(join(lab.root, 'a'), 16 * MiB),
      await loopDevice(join(lab.root, 'b'), 19 * MiB + 512),
    ];
    const lv = join(lab.root, 'lv');
    await symlink(b, lv);
    const before = await photograph(lab.target);
    const events: RestoreEvent[] = [];
    const result = await bring(lab, { to: { vda: a, vdb: lv }, overwrite: true, format: 'qcow2', events });
    expect(result.disks).toMatchObject([
      { path: a, format: 'raw' },
      { path: lv, format: 'raw' },
    ]);
    expect(events.filter(({ kind }) => kind === 'warning')).toEqual([]);
    await rawIsSame(a, newest(lab, 'vda'));
    await rawIsSame(b, newest(lab, 'vdb'), 3 * MiB + 512);
    expect((await lstat(lv)).isSymbolicLink()).toBe(true);
    expect(await photograph(lab.target)).toEqual(before);
    await bring(lab, { point: '0', output: join(lab.root, 'out'), to: { vda: a }, overwrite: true, verify: false });
    await rawIsSame(a, lab.flat('vda', 'FULL-100.qcow2'));
    expect(await filesIn(join(lab.root, 'out'))).toEqual(['machine.json', 'vdb.qcow2']);
  });

  it('are left as they are by a restore that is refused', async () => {
    const lab = await twoDisks();
    const [a, b, small] = [
      await loopDevice(join(lab.root, 'a'), 16 * MiB),
      await loopDevice(join(lab.root, 'b'), 16 * MiB),
      await loopDevice(join(lab.root, 'small'), 16 * MiB - 512),
    ];
    const link = join(lab.root, 'link');
    await symlink(a, link);
    const to = { vda: a, vdb: b };
    const why = async (call: Call): Promise<string> =>
      (await refusal(bring(lab, { to, overwrite: true, ...call }))).message;
    expect(await why({ overwrite: false })).toContain('is a block device, and all that is on it would be lost');
    expect(await why({ to: { vda: a, vdb: small } })).toContain(
      `${small} has 16776704 bytes, and the disk has 16777216`,
    );
    expect(await why({ to: { vda: a, vdb: link } })).toContain('over each other');
    expect(await why({ to: { vda: a, vdb: a } })).toContain('over each other');
    await run('blockdev', ['--setro', b]);
    expect(await why({})).toContain('it is read-only');
    await run('blockdev', ['--setrw', b]);
    // Of the disk that would be written last, in the file that is read first.
    await rot(join(lab.folder('vdb'), 'FULL-100.qcow2'));
    expect(await refusal(bring(lab, { to, overwrite: true }))).toMatchObject({ code: 'damaged' });
    for (const device of [a, b]) await isUntouched(device, 16 * MiB);
    await isUntouched(small, 16 * MiB - 512);
  });

  it('are refused while they are mounted, part of another device, or a disk of a VM', async () => {
    const lab = await twoDisks();
    const device = await loopDevice(join(lab.root, 'a'), 16 * MiB);
    const call = { disks: ['vda'], to: { vda: device }, overwrite: true };
    const why = async (): Promise<string> => {
      const { code, message } = await refusal(bring(lab, call));
      return `${code}: ${message}`;
    };
    const pidfile = join(lab.root, 'pid');
    const drive = `file=${device},format=raw,if=virtio`;
    await run('qemu-system-x86_64', ['-display', 'none', '-S', '-drive', drive, '-daemonize', '-pidfile', pidfile]);
    const pid = Number(await readFile(pidfile, 'utf8'));
    const inVm = await why().finally(() => process.kill(pid, 'SIGKILL'));
    expect(inVm).toBe(`unsafe: ${device} is not written to: a QEMU has it open`);
    await isUntouched(device, 16 * MiB);

    await expect.poll(() => run('mkfs.ext4', ['-q', '-F', device], { allowed: [0, 1] })).toMatchObject({ exitCode: 0 });
    const folder = await mkdtemp(join(lab.root, 'mounted-'));
    const sum = await sha256File(device);
    await run('mount', ['-o', 'ro,noload', device, folder]);
    const mounted = await why().finally(() => run('umount', [folder]));
    expect(mounted).toBe(`unsafe: ${device} is not written to: it is in use: it is mounted at ${folder}`);
    expect(await sha256File(device)).toBe(sum);
    await bring(lab, call);
    await rawIsSame(device, newest(lab, 'vda'));
  });

  it('are not a disk and a partition of it for two disks', async () => {
    const lab = await twoDisks();
    const device = await loopDevice(join(lab.root, 'a'), 40 * MiB);
    const table = Buffer.from('label: dos\nstart=2048, size=65536\n');
    await run('sh', [
      '-c',
      `printf '%s' '${table.toString()}' | sfdisk -q --no-reread ${device} && partx -a ${device}`,
    ]);
    afterTest(() => run('partx', ['-d', device]));
    const call = { to: { vda: device, vdb: `${device}p1` }, overwrite: true };
    expect((await refusal(bring(lab, call))).message).toContain('vda and vdb would be written over each other');
    await bring(lab, { disks: ['vdb'], to: { vdb: `${device}p1` }, overwrite: true });
    await rawIsSame(`${device}p1`, newest(lab, 'vdb'), 16 * MiB);
  });

  it('that fail in the middle are said to be lost', async () => {
    const lab = await twoDisks();
    const device = await loopDevice(join(lab.root, 'a'), 16 * MiB);
    const events: RestoreEvent[] = [];
    const syncFile = (): Promise<never> => Promise.reject(new Error('the cable'));
    const output = join(lab.root, 'out');
    const call = { output, to: { vda: device }, overwrite: true, events, deps: { syncFile } };
    await expect(bring(lab, { ...call, disks: ['vda'] })).rejects.toThrow('the cable');
    expect(events.filter(({ kind }) => kind === 'warning')).toMatchObject([{ code: 'device-incomplete' }]);
    await expect(stat(output)).rejects.toThrow('ENOENT');
    await bring(lab, { ...call, deps: {} });
    await rawIsSame(device, newest(lab, 'vda'));
  });
});
