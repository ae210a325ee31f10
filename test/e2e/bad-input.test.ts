import { createHash } from 'node:crypto';
import { chmod, chown, mkdir, readdir, readFile, rename, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { execa } from 'execa';
import { describe, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { expectCli, PROGRAM } from '../support/cli.js';
import { FakeAgent } from '../support/fake-agent.js';
import { compareImages } from '../support/lab/compare.js';
import { write } from '../support/lab/guest-writes.js';
import { openSocket } from '../support/lab/line-socket.js';
import { run } from '../support/lab/programs.js';
import { type Disk, startQemu } from '../support/lab/qemu.js';
import { expectRefused, filesBelow, leavingNoTrace } from '../support/refusal.js';
import { afterTest, labDir, scenario, type Scenario } from '../support/scenario.js';

/**
 * What is wrong with a request, a monitor, a target or a backup is said in words that help, with the exit code that
 * is promised, and nothing is left behind: no file, no bitmap, no job, no node, no lock.
 */

function backupArgs(lab: Pick<Scenario, 'target'>, socket: string, level = 'full'): readonly string[] {
  return ['--socket', socket, 'backup', '--level', level, '--target', lab.target];
}

/** A server that says `greeting`, if anything, and never more. */
async function serve(path: string, greeting?: string): Promise<void> {
  const server: Server = createServer((client) => {
    client.on('error', () => undefined);
    client.resume();
    if (greeting !== undefined) client.write(greeting);
    afterTest(() => Promise.resolve(client.destroy()));
  });
  afterTest(() => new Promise((resolve) => server.close(resolve)));
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(path, resolve));
}

describe('the monitor', () => {
  it('that does not exist, or is something else', async () => {
    const dir = await labDir();
    const target = join(dir, 'target');
    const http = join(dir, 'http.sock');
    const silent = join(dir, 'silent.sock');
    await writeFile(join(dir, 'file'), '');
    await serve(http, 'HTTP/1.1 400 Bad Request\r\n\r\n');
    await serve(silent);
    const words = ['no QMP greeting within 5 s', 'another client', /hint: /];
    const unanswered = expectRefused(12, backupArgs({ target }, silent), ...words);
    await expectRefused(
      12,
      backupArgs({ target }, join(dir, 'none.sock')),
      /none\.sock/,
      'there is no such socket',
      /hint: .*-qmp/,
    );
    await expectRefused(12, backupArgs({ target }, join(dir, 'file')), /dir|file/, /hint: /);
    await expectRefused(
      12,
      backupArgs({ target }, 'tcp:127.0.0.1:1'),
      'tcp:127.0.0.1:1',
      'nobody is listening there',
      /hint: /,
    );
    await expectRefused(2, backupArgs({ target }, 'tcp:nowhere'), 'tcp:nowhere', /hint: .*HOST:PORT/);
    await expectRefused(12, backupArgs({ target }, http), 'is not a QMP monitor', 'HTTP/1.1 400', /hint: .*-qmp/);
    await unanswered;
    await expectRefused(2, ['backup', '--level', 'full', '--target', target], 'no VM was given', /hint: .*--socket/);
    expect((await readdir(dir)).toSorted()).toEqual(['file', 'http.sock', 'silent.sock']);
  });

  it("that is for people, the guest agent's, or held by another client", async () => {
    const hmp = join(await labDir(), 'hmp.sock');
    const lab = await scenario(undefined, { silentAgent: true, args: ['-monitor', `unix:${hmp},server=on,wait=off`] });
    await leavingNoTrace(lab, async () => {
      await expectRefused(12, backupArgs(lab, hmp), 'is not a QMP monitor', /hint: .*monitor for people/);
      const other = await openSocket(lab.vm.socket);
      const held = [/another client probably holds the monitor/, /hint: .*close/];
      await Promise.all([
        expectRefused(12, backupArgs(lab, lab.vm.agentSocket), 'no QMP greeting within 5 s', /hint: .*guest agent/),
        expectRefused(12, backupArgs(lab, lab.vm.socket), ...held),
      ]);
      other.destroy();
    });
    await lab.backup('full');
  });

  it('that closes while the VM is looked at', async () => {
    const lab = await scenario();
    const cut = await cutAt(lab, 'query-named-block-nodes');
    await leavingNoTrace(lab, async () => {
      await expectRefused(12, backupArgs(lab, cut), 'lost', /hint: .*whether the VM is still running/);
    });
    await lab.backup('full');
  });

  it.each(['blockdev-add', 'transaction', 'query-jobs'])('that closes at %s of an INC', async (command) => {
    const lab = await scenario();
    await lab.backup('full');
    await write(lab.vm, 'd1', { offset: 0, length: MiB, pattern: 0x11 });
    // Twice before there is a job: for what a dead run left, and with the disks.
    const cut = await cutAt(lab, command, command === 'query-jobs' ? 3 : 1);
    const { stderr } = await expectCli(1, [...backupArgs(lab, cut, 'inc'), '--progress-interval', '1']);
    expect(stderr).toMatch(/monitor was lost during the backup/);
    expect(stderr).toMatch(/hint: No point was made and no change is lost/);
    expect((await lab.backup('inc')).point.disks[0]).toMatchObject({ level: 'inc', changed: MiB });
    await lab.expectChainEqualsDisks();
    await lab.expectNothingLeft(2);
  });
});

/** A monitor that closes right after it has passed on a command for the `count`th time. */
async function cutAt(lab: Scenario, command: string, count = 1): Promise<string> {
  const path = join(await labDir(), 'cut.sock');
  let seen = 0;
  const server = createServer((client) => {
    client.on('error', () => undefined);
    void openSocket(lab.vm.socket).then((qemu) => {
      qemu.on('error', () => undefined);
      qemu.on('close', () => client.destroy());
      client.on('close', () => qemu.end());
      qemu.pipe(client);
      client.on('data', (chunk: Buffer) => {
        qemu.write(chunk);
        for (const line of chunk.toString().split('\n')) if (line.includes(`"${command}"`)) seen += 1;
        if (seen >= count) client.destroy();
      });
    });
  });
  afterTest(() => new Promise((resolve) => server.close(resolve)));
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(path, resolve));
  return path;
}

describe('the target', () => {
  it('that is a file, or below one', async () => {
    const lab = await scenario();
    const file = join(lab.dir, 'file');
    await writeFile(file, 'keep me');
    await leavingNoTrace(lab, async () => {
      await expectRefused(13, backupArgs({ target: file }, lab.vm.socket), `${file} is a file, not a folder`, /hint: /);
      const below = join(file, 'target');
      await expectRefused(13, backupArgs({ target: below }, lab.vm.socket), below, 'not a directory', /hint: /);
    });
    expect(await readFile(file, 'utf8')).toBe('keep me');
  });

  it('that we may not write to', async () => {
    const lab = await scenario();
    await chmod(lab.dir, 0o755);
    await chmod(join(lab.dir, 'vm'), 0o755);
    await chmod(lab.vm.socket, 0o777);
    await leavingNoTrace(lab, async () => {
      const { exitCode, stderr } = await asNobody([process.execPath, PROGRAM, ...backupArgs(lab, lab.vm.socket)]);
      expect(stderr).toMatch(/cannot create the folder .*target: permission denied for user nobody \(uid 65534\)/);
      expect(stderr).toMatch(/hint: Give this user read and write access/);
      expect(exitCode).toBe(13);
      const existing = join(lab.dir, 'vm');
      const second = await asNobody([process.execPath, PROGRAM, ...backupArgs({ target: existing }, lab.vm.socket)]);
      expect(second.stderr).toMatch(/cannot write into .*vm: permission denied for user nobody/);
      expect(second.exitCode).toBe(13);
    });
  });

  it('of a QEMU that runs as another user belongs to that user', async () => {
    const lab = await asOtherUser();
    await chmod(lab.dir, 0o755);
    const full = await lab.backup('full');
    const [disk] = full.point.disks;
    for (const path of ['', 'catalog.json', disk!.disk, join(disk!.disk, disk!.file)]) {
      const { uid, mode, isDirectory } = await stat(join(lab.target, path)).then((stats) => ({
        uid: stats.uid,
        mode: stats.mode & 0o777,
        isDirectory: stats.isDirectory(),
      }));
      expect([path, uid, mode]).toEqual([path, NOBODY, isDirectory ? 0o700 : 0o600]);
    }
    await write(lab.vm, 'd1', { offset: 0, length: MiB, pattern: 0x12 });
    expect((await lab.backup('inc')).point.level).toBe('inc');
    await lab.expectChainEqualsDisks();
  });

  it('that a QEMU of another user cannot reach is refused before any freeze, naming user and path', async () => {
    const lab = await asOtherUser();
    await chmod(lab.dir, 0o755);
    const closed = join(lab.dir, 'closed');
    await mkdir(closed, { mode: 0o700 });
    const agent = await FakeAgent.start({ fileSystems: 1 });
    afterTest(() => agent.close());
    await lab.vm.control.execute('cont');
    const target = join(closed, 'target');
    const agentPath = agent.endpoint.kind === 'unix' ? agent.endpoint.path : '';
    await leavingNoTrace(lab, async () => {
      await expectRefused(
        13,
        ['--agent-socket', agentPath, ...backupArgs({ target }, lab.vm.socket), '--quiesce'],
        /QEMU \(user nobody, pid \d+\) cannot open the target/,
        'Permission denied',
        target,
        /hint: Give the user that QEMU runs as access to every folder of the path/,
      );
    });
    expect(agent.received.map(({ command }) => command)).not.toContain('guest-fsfreeze-freeze');
  });

  it('that gets full: no point, nothing left, and no change is lost', async () => {
    const program = join(await labDir(), 'qemu');
    // A file that may not grow further is an error for QEMU then, as a full disk is, and not its end.
    await writeFile(program, `#!/bin/sh\ntrap '' XFSZ\nexec qemu-system-x86_64 "$@"\n`, { mode: 0o755 });
    const lab = await scenario(undefined, { program });
    const { fill, makeRoom } = await smallTarget(lab);
    // The guards would see it coming.
    const blindly = ['--fleece', 'never', '--reserve', '0', '--force'];
    await lab.backup('full', ...blindly);
    for (const disk of ['d1', 'd2']) await write(lab.vm, disk, { offset: 0, length: MiB, pattern: 0x13 });
    await write(lab.vm, 'd1', { offset: 8 * MiB, length: 12 * MiB, pattern: 0x14 });
    await fill();
    await leavingNoTrace(lab, async () => {
      const failed =
        /the backup of d[12] failed: (No space left on device|File too large)|the space on the target .* runs out/;
      const words = [failed, /hint: .*no change is lost/];
      await expectRefused(1, [...backupArgs(lab, lab.vm.socket, 'inc'), ...blindly], ...words);
    });
    await makeRoom();
    expect((await lab.backup('inc', ...blindly)).point.disks.map(({ level, changed }) => [level, changed])).toEqual([
      ['inc', 13 * MiB],
      ['inc', MiB],
    ]);
    await lab.expectChainEqualsDisks();
    await lab.expectNothingLeft(2);
  });

  it('that belongs to another VM', async () => {
    const lab = await scenario();
    await lab.backup('full');
    await lab.vm.stop();
    await lab.restart({ name: 'other' });
    await leavingNoTrace(lab, async () => {
      await expectRefused(
        13,
        backupArgs(lab, lab.vm.socket, 'auto'),
        'belongs to VM vm, this is VM other',
        /hint: .*--vm-name/,
      );
    });
    await lab.vm.stop();
    const uuid = '6f2b1c1e-0000-4000-8000-000000000001';
    await lab.restart({ name: 'vm', uuid });
    await lab.backup('inc');
    await lab.vm.stop();
    await lab.restart({ name: 'vm', uuid: uuid.replace(/1$/, '2') });
    await leavingNoTrace(lab, async () => {
      await expectRefused(13, backupArgs(lab, lab.vm.socket, 'auto'), `UUID ${uuid}`, /hint: /);
    });
  });

  it('that is the folder of a disk in another target', async () => {
    const lab = await scenario();
    await lab.backup('full');
    const folder = join(lab.target, 'd1');
    const link = join(lab.dir, 'link');
    await symlink(folder, link);
    await leavingNoTrace(lab, async () => {
      for (const more of [[folder], [folder, '--dry-run'], [folder, '--monthly'], [link]]) {
        const args = ['--socket', lab.vm.socket, 'backup', '--level', 'auto', '--target', ...more];
        await expectRefused(13, args, `belongs to the backup in ${lab.target}`, /hint: Choose another folder/);
      }
    });
  });

  it('of a VM without name and UUID takes no disks of a stranger', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    await lab.vm.stop();
    const { dir } = lab.vm;
    const anonymous = async (disks: readonly Disk[]): Promise<void> => {
      lab.vm = await startQemu({ dir, disks });
    };
    await anonymous(lab.vm.options.disks);
    await lab.backup('full');
    expect((await lab.backup('inc')).point.level).toBe('inc');
    await lab.vm.stop();
    const other = join(lab.dir, 'other.qcow2');
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', other, '64M']);
    await anonymous([{ id: 'd1', format: 'qcow2', file: other }]);
    await leavingNoTrace(lab, async () => {
      const words = ['no disk of this VM carries one of its bitmaps or images', /hint: /];
      await expectRefused(13, backupArgs(lab, lab.vm.socket, 'auto'), ...words);
    });
  });
});

/** A target that holds little from `fill` on, until `makeRoom`. */
async function smallTarget(lab: Scenario): Promise<Record<'fill' | 'makeRoom', () => Promise<unknown>>> {
  await mkdir(lab.target);
  const mounted = await execa('mount', ['-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', lab.target], { reject: false });
  const canMount = mounted.exitCode === 0;
  if (canMount) afterTest(() => run('umount', ['-l', lab.target]));
  // Where a container may not mount, QEMU may not write files beyond a size: EFBIG where a full disk has ENOSPC.
  const resize = (size: string, bytes: string) =>
    canMount
      ? run('mount', ['-o', `remount,size=${size}`, lab.target])
      : run('prlimit', ['--pid', String(lab.vm.pid), `--fsize=${bytes}`]);
  return { fill: () => resize('6m', `${6 * MiB}:`), makeRoom: () => resize('64m', 'unlimited:') };
}

const NOBODY = 65534;

/** Runs a program as a user who has no rights of root but to read the program's own files, wherever they are. */
function asNobody(command: readonly string[]) {
  const ids = ['--reuid', String(NOBODY), '--regid', String(NOBODY), '--clear-groups'];
  const toRead = ['--inh-caps', '+dac_read_search', '--ambient-caps', '+dac_read_search'];
  return execa('setpriv', [...ids, ...toRead, ...command], { reject: false, env: { NO_COLOR: '1' } });
}

/** A VM whose QEMU runs as another user, in a folder that this user can enter only by what it was given. */
async function asOtherUser(): Promise<Scenario> {
  const bin = await labDir();
  const wrapper = join(bin, 'qemu');
  const ids = `--reuid ${NOBODY} --regid ${NOBODY} --clear-groups`;
  await writeFile(wrapper, `#!/bin/sh\nexec setpriv ${ids} --pdeathsig KILL qemu-system-x86_64 "$@"\n`, {
    mode: 0o755,
  });
  const images = await labDir();
  await chmod(images, 0o755);
  const vmDir = join(images, 'vm');
  await mkdir(vmDir);
  await chown(vmDir, NOBODY, NOBODY);
  const file = join(images, 'd1.qcow2');
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', file, '64M']);
  await chown(file, NOBODY, NOBODY);
  return scenario([], { program: wrapper, dir: vmDir, disks: [{ id: 'd1', file, format: 'qcow2' }] });
}

describe('the request', () => {
  it('for a disk, a level or a value that there is not', async () => {
    const lab = await scenario([{ id: 'd1' }, { id: 'cd', media: 'cdrom', interface: 'ide', format: 'raw' }]);
    await leavingNoTrace(lab, async () => {
      const full = backupArgs(lab, lab.vm.socket);
      await expectRefused(
        2,
        [...full, '--include', 'sda'],
        '--include sda: the VM has no such disk',
        /hint: Its disks are: d1/,
      );
      await expectRefused(2, [...full, '--exclude', 'd1,sda'], '--exclude sda: the VM has no such disk', /hint: /);
      await expectRefused(2, [...full, '--include', 'cd'], '--include cd: ', /read-only|cdrom/);
      await expectRefused(13, [...full, '--exclude', 'd1'], 'there is no disk to back up', /hint: .*d1: excluded/);
      await expectRefused(
        2,
        backupArgs(lab, lab.vm.socket, 'differential'),
        /differential/,
        /full, inc, diff, auto, copy/,
      );
      await expectRefused(2, [...full, '--quiesce=maybe'], '--quiesce=maybe', /hint: .*--quiesce=require/);
    });
  });

  it('with an empty value, as of a variable that is not set', async () => {
    const lab = await scenario();
    await leavingNoTrace(lab, async () => {
      const vm = ['--socket', lab.vm.socket];
      await expectRefused(2, [...vm, 'backup', '--level', 'full', '--target', ''], '--target has an empty value');
      await expectRefused(2, backupArgs(lab, ''), '--socket has an empty value');
      await expectRefused(2, [...backupArgs(lab, lab.vm.socket), '--include', ' ,'], /--include .*at least one name/);
      await expectRefused(2, ['list', '--target', ''], '--target has an empty value');
      await expectRefused(2, ['restore', '--target', lab.target, '--output='], '--output has an empty value');
      await expectRefused(2, ['import', '--from', 'virtnbdbackup', '', '--target', lab.target], 'an empty value');
    });
  });
});

describe('the catalog', () => {
  type Json = Record<string, unknown> & { points: { disks: Record<string, unknown>[] }[] };
  const edited = (change: (catalog: Json) => void) => (text: string) => {
    const catalog = JSON.parse(text) as Json;
    change(catalog);
    return JSON.stringify(catalog);
  };
  const firstDisk = (catalog: Json): Record<string, unknown> => catalog.points[0]!.disks[0]!;

  it('that is damaged, newer or hostile is refused by all who read it', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    await lab.backup('full');
    const path = join(lab.target, 'catalog.json');
    const whole = await readFile(path, 'utf8');
    const hostile: readonly [string, (text: string) => string, RegExp][] = [
      ['cut off', (text) => text.slice(0, text.length / 2), /catalog\.json is damaged: /],
      ['empty', () => '', /catalog\.json is damaged: /],
      ['newer', edited((catalog) => (catalog['schema'] = 3)), /written by a newer qmpbackup: its schema is 3/],
      [
        'absolute',
        edited((catalog) => (firstDisk(catalog)['file'] = '/etc/passwd')),
        /tampered with: .*not a plain file/,
      ],
      ['above', edited((catalog) => (firstDisk(catalog)['disk'] = '..')), /tampered with: .*disk: is not a plain file/],
      ['parent', edited((catalog) => (firstDisk(catalog)['parent'] = '../../x')), /tampered with: .*parent: /],
      ['twice', edited((catalog) => catalog.points.push(catalog.points[0]!)), /d1\/FULL-\d+\.qcow2 is in it twice/],
    ];
    for (const [name, change, why] of hostile) {
      await writeFile(path, change(whole));
      await leavingNoTrace(lab, async () => {
        const output = join(lab.dir, 'restored');
        await expectRefused(13, backupArgs(lab, lab.vm.socket, 'auto'), why, /hint: /);
        await expectRefused(13, ['restore', '--target', lab.target, '--output', output], why, /hint: /);
        if (name === 'newer') await expectRefused(13, ['list', '--target', lab.target], why, /hint: /);
      });
    }
    await writeFile(path, whole);
    await leavingNoTrace(lab, async () => {
      await rename(path, `${path}.moved`);
      await symlink(`${path}.moved`, path);
      await expectRefused(13, ['list', '--target', lab.target], 'symbolic link', /hint: /);
      await rename(`${path}.moved`, path);
    });
    expect((await lab.backup('inc')).point.level).toBe('inc');
  });

  it('that is not there', async () => {
    const dir = await labDir();
    const output = join(dir, 'restored');
    for (const target of [dir, join(dir, 'none')]) {
      await expectRefused(10, ['list', '--target', target], 'there is no backup in', /hint: /);
      await expectRefused(10, ['restore', '--target', target, '--output', output], target, /hint: /);
      await expectRefused(10, ['rebase', '--dir', join(target, 'd1')], join(target, 'd1'), /hint: /);
    }
    expect(await readdir(dir)).toEqual([]);
  });
});

describe('a chain', () => {
  /** FULL, INC, INC of one disk, with their paths. */
  async function chainOfThree(): Promise<{ lab: Scenario; files: string[]; disk: string; output: string }> {
    const lab = await scenario([{ id: 'd1' }]);
    const files: string[] = [];
    for (const level of ['full', 'inc', 'inc']) {
      await write(lab.vm, 'd1', { offset: files.length * MiB, length: MiB, pattern: 0x20 + files.length });
      files.push((await lab.backup(level)).point.disks[0]!.file);
    }
    return { lab, files, disk: join(lab.target, 'd1'), output: join(lab.dir, 'restored') };
  }

  it.each(['missing', 'swapped', 'altered'])('with a file that is %s', async (how) => {
    const { lab, files, disk, output } = await chainOfThree();
    const [full, first, second] = files.map((file) => join(disk, file));
    const why = {
      missing: new RegExp(`${files[1]}.*is missing`),
      swapped: new RegExp(`${files[1]}.*(bytes|modified|backing file)`),
      altered: new RegExp(`${files[1]}.*modified after it was sealed`),
    }[how]!;
    if (how === 'missing') await rename(first!, `${first}.aside`);
    if (how === 'swapped') {
      await rename(first!, `${first}.aside`);
      await rename(second!, first!);
      await rename(`${first}.aside`, second!);
    }
    if (how === 'altered') await run('qemu-io', ['-f', 'qcow2', '-c', 'write -P 0x99 1M 64k', first!]);

    await leavingNoTrace(lab, async () => {
      const inc = await expectCli(13, backupArgs(lab, lab.vm.socket, 'inc'));
      expect(inc.stderr).toMatch(/--level inc is not safe: d1: its earlier backup cannot be built on: /);
      expect(inc.stderr).toMatch(why);
      await expectRefused(13, ['restore', '--target', lab.target, '--output', output], why, /hint: /);
      if (how === 'missing') await expectRefused(13, ['merge', '--dir', disk, '--targetfile', output], why, /hint: /);
      await expectRefused(13, ['rebase', '--dir', disk], why, /hint: /);
    });
    await expectCli(0, ['restore', '--target', lab.target, '--output', output, '--point', '0']);
    await compareImages(join(output, 'd1.qcow2'), full!);

    await write(lab.vm, 'd1', { offset: 8 * MiB, length: MiB, pattern: 0x33 });
    const auto = await lab.backup('auto');
    expect(auto.point.disks[0]).toMatchObject({ level: 'full' });
    expect(auto.point.disks[0]!.reason).toMatch(why);
    await lab.expectChainEqualsDisks();
  });

  it('asked for a point, file or disk that there is not', async () => {
    const { lab, files, disk, output } = await chainOfThree();
    await leavingNoTrace(lab, async () => {
      const restore = ['restore', '--target', lab.target, '--output', output];
      const has = new RegExp(`hint: There are: .*${files[2]}`);
      await expectRefused(2, [...restore, '--until', 'INC-1'], 'no point holds a file INC-1', has);
      await expectRefused(
        2,
        [...restore, '--point', '7'],
        'there is no point 7',
        /hint: There are: point 0, point 1, point 2/,
      );
      await expectRefused(2, [...restore, '--disk', 'd9'], 'has no disk d9', /hint: It has: d1/);
      await expectRefused(2, ['merge', '--dir', disk, '--targetfile', output, '--until', 'INC-1'], 'INC-1', has);
      await expectRefused(2, ['rebase', '--dir', disk, '--until', 'INC-1'], 'there is no file INC-1', has);
    });
  });

  it('made hostile, catalog and all, does not make qemu-img read files of the host', async () => {
    const { lab, files, disk, output } = await chainOfThree();
    await lab.vm.stop();
    const secret = join(lab.dir, 'secret');
    await run('qemu-img', ['create', '-q', '-f', 'raw', secret, '64M']);
    const whole = join(lab.dir, 'whole');
    await rename(lab.target, whole);
    const [full, tip] = [files[0]!, files[2]!];
    const attacks: readonly [string, () => Promise<unknown>, RegExp][] = [
      ['backing link', () => relink(join(disk, full), secret, 'raw'), new RegExp(`${full}.*${secret}`)],
      [
        'json link',
        () => relink(join(disk, full), `json:{"driver":"raw","file.filename":"${secret}"}`, 'raw'),
        /json:/,
      ],
      ['relative link', () => relink(join(disk, tip), `../../whole/d1/${files[1]}`, 'qcow2'), /\.\.\/\.\.\/whole/],
      ['raw parent', () => relink(join(disk, tip), files[1]!, 'raw'), new RegExp(`${tip}.*raw`)],
      ['data file', () => withDataFile(join(disk, full), secret), new RegExp(`${full}.*secret`)],
      ['link to a file', () => replaceByLink(join(disk, full), secret), new RegExp(`${full}.*symbolic link`)],
      ['link to a folder', () => replaceByLink(disk, join(whole, 'd1')), /symbolic link/],
      ['no image', () => writeFile(join(disk, full), 'x'.repeat(70_000)), new RegExp(full)],
    ];
    for (const [name, attack, why] of attacks) {
      await run('cp', ['-a', whole, lab.target]);
      await attack();
      await forgeCatalog(lab.target);
      const before = await filesBelow(lab.dir);
      const code = name === 'no image' ? /^(4|13)$/ : /^13$/;
      for (const args of [
        ['restore', '--target', lab.target, '--output', output],
        ['merge', '--dir', disk, '--targetfile', join(output, 'd1.qcow2')],
        ['rebase', '--dir', disk],
      ]) {
        // A folder that the user names may be a link.
        if (name === 'link to a folder' && args[0] !== 'restore') continue;
        const { exitCode, stderr } = await execa(process.execPath, [PROGRAM, ...args], { reject: false });
        expect(stderr, `${name}: ${args[0]}`).toMatch(why);
        expect(String(exitCode), `${name}: ${args[0]}: ${stderr}`).toMatch(code);
      }
      // Without a catalog it is a folder as the Python tools make it, whose links are as little to be trusted.
      for (const name of ['', '-copy-1', '-copy-2']) await rm(join(lab.target, `catalog${name}.json`), { force: true });
      if (name === 'backing link' || name === 'data file' || name === 'link to a file') {
        const bare = await execa(process.execPath, [PROGRAM, 'restore', '--target', lab.target, '--output', output], {
          reject: false,
        });
        expect(String(bare.exitCode), `${name}: ${bare.stderr}`).toMatch(/^(4|10|13)$/);
      }
      expect((await filesBelow(lab.dir)).filter((file) => file !== 'target/catalog.json')).toEqual(
        before.filter((file) => !file.startsWith('target/catalog')),
      );
      await rm(lab.target, { recursive: true });
    }
    expect((await stat(secret)).size).toBe(64 * MiB);
  });
});

function relink(image: string, backing: string, format: string): Promise<unknown> {
  return run('qemu-img', ['rebase', '-u', '-q', '-F', format, '-b', backing, image]);
}

async function withDataFile(image: string, data: string): Promise<void> {
  await rm(image);
  const options = `data_file=${data},data_file_raw=on,cluster_size=64k`;
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, image, '64M']);
}

async function replaceByLink(path: string, to: string): Promise<void> {
  await rm(path, { recursive: true });
  await symlink(to, path);
}

/** Makes the catalog say of every file what it is now: whoever alters a backup can do that too. */
async function forgeCatalog(target: string): Promise<void> {
  const path = join(target, 'catalog.json');
  const catalog = JSON.parse(await readFile(path, 'utf8')) as {
    points: { disks: { disk: string; file: string; size: number; mtimeMs: number; sha256: string }[] }[];
  };
  for (const entry of catalog.points.flatMap(({ disks }) => disks)) {
    const file = join(target, entry.disk, entry.file);
    const { size, mtimeMs } = await stat(file);
    const sha256 = createHash('sha256')
      .update(await readFile(file))
      .digest('hex');
    Object.assign(entry, { size, mtimeMs, sha256 });
  }
  await writeFile(path, JSON.stringify(catalog));
}
