import { copyFile, readdir, readFile, rename, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { describe, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { expectCli, PROGRAM, qmpbackup, startCli } from '../support/cli.js';
import { crashCli } from '../support/crash-point.js';
import { compareImages } from '../support/lab/compare.js';
import { createEncryptedImage, createImage } from '../support/lab/disk-images.js';
import { expectPattern, write } from '../support/lab/guest-writes.js';
import { run } from '../support/lab/programs.js';
import { type Disk, startQemu } from '../support/lab/qemu.js';
import { expectRefused, leavingNoTrace } from '../support/refusal.js';
import { afterTest, type BackupAnswer, labDir, scenario, type Scenario, textsOf } from '../support/scenario.js';

/** Which disks a point holds and at which level, what every option does, and what is said about it, to whom. */

function backupArgs(lab: Scenario, level: string, ...more: readonly string[]): readonly string[] {
  return ['--socket', lab.vm.socket, 'backup', '--level', level, '--target', lab.target, ...more];
}

const levels = ({ point }: BackupAnswer): string => point.disks.map(({ disk, level }) => `${disk} ${level}`).join(', ');

async function writeSome(lab: Scenario, disk: string, megabyte: number): Promise<void> {
  await write(lab.vm, disk, { offset: megabyte * MiB, length: 65536, pattern: 0x40 + megabyte });
}

describe('which disks', () => {
  it('every writable one with a medium; what is left out is said with the reason', async () => {
    const images = await labDir();
    const base = join(images, 'base.qcow2');
    await createImage({ file: base, format: 'qcow2', size: 64 * MiB });
    await run('qemu-io', ['-c', 'write -P 0x77 1M 1M', base]);
    const backing = join(images, 'top.qcow2');
    await createImage({ file: backing, format: 'qcow2', size: 64 * MiB, backing: { file: base, format: 'qcow2' } });
    const [iso, readOnly] = [join(images, 'cd.iso'), join(images, 'ro.qcow2')];
    await createImage({ file: iso, format: 'raw', size: MiB });
    await createImage({ file: readOnly, format: 'qcow2', size: MiB });
    const kept: readonly Disk[] = [
      { id: 'node', via: 'blockdev' },
      { id: 'scsi', interface: 'scsi' },
      { id: 'scsinode', interface: 'scsi', via: 'blockdev' },
      { id: 'ide', interface: 'ide' },
      { id: 'raw', format: 'raw' },
      { id: 'rawnode', format: 'raw', via: 'blockdev' },
      { id: 'limited', via: 'blockdev', throttle: { bytes: 512 * MiB } },
      { id: 'slow', throttle: { bytes: 512 * MiB } },
    ];
    const lab = await scenario([...kept, { id: 'flash', interface: 'pflash', size: 4 * MiB }], {
      args: [
        ...['-drive', `if=none,id=over,file=${backing},format=qcow2,copy-on-read=on`],
        ...['-device', 'virtio-blk-pci,drive=over,id=dev-over'],
        ...[
          '-drive',
          `if=none,id=cd,file=${iso},format=raw,media=cdrom`,
          '-device',
          'scsi-cd,drive=cd,id=dev-cd,bus=lab-scsi.0',
        ],
        ...['-device', 'ide-cd,id=dev-empty'],
        ...['-drive', `if=none,id=ro,file=${readOnly},format=qcow2,readonly=on`, '-device', 'virtio-blk-pci,drive=ro'],
      ],
    });
    const ids = [...kept.map(({ id }) => id), 'flash', 'over'].toSorted();
    for (const { id } of lab.vm.options.disks) await writeSome(lab, id, 1);
    const full = await lab.backup('full');
    expect(full.point.disks.map(({ disk }) => disk).toSorted()).toEqual(ids);
    expect(full.plan.leftOut).toEqual(
      expect.arrayContaining([
        { name: 'cd', reason: 'a read-only removable medium (cdrom)', kind: 'no-disk' },
        { name: expect.stringContaining('dev-empty') as string, reason: 'no medium', kind: 'no-disk' },
        { name: 'ro', reason: 'read-only', kind: 'no-disk' },
      ]),
    );
    for (const { id } of lab.vm.options.disks) await writeSome(lab, id, 2);
    const inc = await lab.backup('inc');
    expect(inc.point.disks.map(({ level, changed }) => [level, changed])).toEqual(
      inc.point.disks.map(({ disk }) => ['inc', disk === 'over' ? 0 : 65536]),
    );
    await lab.expectChainEqualsDisks();
    const over = inc.point.disks.find(({ disk }) => disk === 'over');
    await compareImages(join(lab.target, 'over', over!.file), backing);

    const shown = await expectCli(0, ['--socket', lab.vm.socket, 'info']);
    expect(shown.stdout).toMatch(/^cd: left out, a read-only removable medium \(cdrom\)$/m);
    const said = await expectCli(0, backupArgs(lab, 'inc'));
    expect(said.stderr).toMatch(/^ro: left out, read-only$/m);
  });

  it('each can be named by id, device, node, guest device and file', async () => {
    const lab = await scenario([{ id: 'd1' }, { id: 'd2', via: 'blockdev', device: 'vd2' }]);
    const file = join(lab.dir, 'd2.qcow2');
    const chosen = async (...more: string[]): Promise<string> => {
      const result = await expectCli(0, ['--json', ...backupArgs(lab, 'full', '--dry-run', ...more)]);
      const { plan } = result.json<{ plan: { disks: { disk: string }[] } }>();
      return plan.disks.map(({ disk }) => disk).join();
    };
    for (const name of ['d2', 'vd2', '/machine/peripheral/vd2/virtio-backend', file, 'd2.qcow2']) {
      expect(await chosen('--include', name), name).toBe('d2');
    }
    expect(await chosen('--exclude', 'vd2')).toBe('d1');
    expect(await chosen('--include', 'd1,vd2')).toBe('d1,d2');
    expect(await chosen('--include', 'd1', '--include', 'd2', '--exclude', 'd1')).toBe('d2');
  });

  it('raw disks have a bitmap until QEMU ends, then are compared, and a warning says so', async () => {
    const lab = await scenario([{ id: 'raw', format: 'raw' }, { id: 'd2' }]);
    const full = await lab.backup('full');
    expect(textsOf(full.warnings)).toContainEqual(
      expect.stringMatching(/^raw: a raw image cannot store a bitmap; .*QEMU ends/),
    );
    await writeSome(lab, 'raw', 3);
    expect(levels(await lab.backup('inc', '--include-raw'))).toBe('raw inc, d2 inc');
    await lab.expectChainEqualsDisks();
    const without = await lab.backup('inc', '--exclude-raw');
    expect(levels(without)).toBe('d2 inc');
    expect(without.plan.leftOut).toEqual([{ name: 'raw', reason: 'raw, excluded by --exclude-raw', kind: 'request' }]);

    await writeSome(lab, 'raw', 4);
    await lab.vm.stop();
    await lab.restart();
    await writeSome(lab, 'raw', 5);
    await leavingNoTrace(lab, async () => {
      await expectRefused(
        13,
        backupArgs(lab, 'inc'),
        /raw: the bitmap of INC-\d+\.qcow2 is gone \(a raw image keeps no/,
      );
    });
    expect(levels(await lab.backup('auto'))).toBe('raw inc, d2 inc');
    await lab.expectChainEqualsDisks();
  });

  it('qcow2 version 2 is compared each time, until it is converted as the message says', async () => {
    const lab = await scenario([{ id: 'old', compat: '0.10' }, { id: 'd2' }]);
    const full = await lab.backup('auto');
    expect(textsOf(full.warnings)).toContainEqual(
      expect.stringMatching(/^old: qcow2 version 2 .*qemu-img amend -o compat=1\.1/),
    );
    await writeSome(lab, 'old', 3);
    await leavingNoTrace(lab, async () => {
      await expectRefused(13, backupArgs(lab, 'inc'), /old: qcow2 version 2 .*qemu-img amend -o compat=1\.1 IMAGE/);
    });
    const auto = await lab.backup('auto');
    expect(levels(auto)).toBe('old inc, d2 inc');
    expect(auto.point.disks[0]!.reason).toContain('qemu-img amend');
    await lab.expectChainEqualsDisks();

    await lab.vm.stop();
    await run('qemu-img', ['amend', '-f', 'qcow2', '-o', 'compat=1.1', join(lab.dir, 'old.qcow2')]);
    await lab.restart();
    expect(levels(await lab.backup('auto'))).toBe('old inc, d2 inc');
    await writeSome(lab, 'old', 4);
    expect(levels(await lab.backup('inc'))).toBe('old inc, d2 inc');
    await lab.expectChainEqualsDisks();
  });

  it('an encrypted one would be written decrypted: only if that is allowed, and marked', async () => {
    const file = join(await labDir(), 'secret.qcow2');
    await createEncryptedImage(file, 16 * MiB, 'abc');
    const disk: Disk = { id: 'd1', file, format: 'qcow2', options: { 'encrypt.key-secret': 'key' } };
    const lab = await scenario([], { disks: [disk], args: ['-object', 'secret,id=key,data=abc'] });
    await writeSome(lab, 'd1', 1);
    await leavingNoTrace(lab, async () => {
      const words = [
        /d1: the image is encrypted, and QEMU would write its backup decrypted/,
        /hint: .*--allow-plaintext/,
      ];
      await expectRefused(13, backupArgs(lab, 'full'), ...words);
    });
    const full = await lab.backup('full', '--allow-plaintext');
    expect(textsOf(full.warnings)).toContainEqual('d1: the source is encrypted, its backup is not');
    expect(full.point.disks[0]).toMatchObject({ plaintextOfEncrypted: true });
    expect((await expectCli(0, ['list', '--target', lab.target])).stdout).toContain('d1 (decrypted)');
    const copy = join(lab.target, 'd1', full.point.disks[0]!.file);
    await run('qemu-io', ['-f', 'qcow2', '-c', 'read -P 0x41 1M 64k', copy]);
  });

  it('one that was added, removed or grown', async () => {
    const lab = await scenario([{ id: 'd1' }, { id: 'd2' }]);
    await writeSome(lab, 'd1', 1);
    await lab.backup('full');
    const added: Disk = { id: 'd3', file: join(lab.dir, 'd3.qcow2'), format: 'qcow2' };
    await createImage({ file: added.file!, format: 'qcow2', size: 32 * MiB });
    const [first, second] = lab.vm.options.disks;
    await lab.vm.stop();
    await lab.restart({ disks: [first!, second!, added] });
    await writeSome(lab, 'd3', 1);
    await leavingNoTrace(lab, () =>
      expectRefused(13, backupArgs(lab, 'inc'), 'd3: first backup of this disk', /hint: /),
    );
    const more = await lab.backup('auto');
    expect(levels(more)).toBe('d1 inc, d2 inc, d3 full');
    expect(more.point.disks[2]!.reason).toBe('first backup of this disk');
    await lab.expectChainEqualsDisks();

    await lab.vm.stop();
    await run('qemu-img', ['resize', '-q', first!.file!, '80M']);
    await lab.restart({ disks: [first!, added] });
    await writeSome(lab, 'd1', 70);
    await lab.vm.control.execute('block_resize', { device: 'd3', size: 48 * MiB });
    await writeSome(lab, 'd3', 40);
    const less = await lab.backup('inc');
    expect(levels(less)).toBe('d1 inc, d3 inc');
    expect(less.point.removed).toEqual(['d2']);
    expect(less.point.disks.map((each) => (each as unknown as { virtualSize: number }).virtualSize)).toEqual([
      80 * MiB,
      48 * MiB,
    ]);
    await lab.expectChainEqualsDisks();
    const said = await expectCli(0, ['list', '--target', lab.target]);
    expect(said.stdout).toMatch(/3 points/);
  });
});

describe('--monthly', () => {
  /** The month folder of the newest point, given the name of a month long ago. */
  async function makeItOld(lab: Scenario, month: string): Promise<string> {
    const vm = join(lab.target, 'vm');
    const [now] = (await readdir(vm)).toSorted().toReversed();
    await rename(join(vm, now!), join(vm, month));
    return join(vm, month);
  }
  const bitmapsOfDisk = async (lab: Scenario): Promise<readonly string[]> => (await lab.bitmaps())['d1']!;

  it('begins a chain a month, and lets go of the old one only when the new FULL is sealed', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    await writeSome(lab, 'd1', 1);
    const first = await lab.backup('auto', '--monthly');
    expect(first.target).toMatch(/\/target\/vm\/\d{4}-(0[1-9]|1[0-2])$/);
    await writeSome(lab, 'd1', 2);
    expect(levels(await lab.backup('auto', '--monthly'))).toBe('d1 inc');
    const old = await makeItOld(lab, '2001-01');
    const oldBitmaps = await bitmapsOfDisk(lab);
    expect(oldBitmaps).toHaveLength(2);

    await leavingNoTrace(lab, async () => {
      const words = ['d1: first backup into this target', /hint: .*--level auto/];
      await expectRefused(13, backupArgs(lab, 'inc', '--monthly'), ...words);
    });

    // A crash before the FULL is sealed: the old month's bitmaps are all there.
    await writeSome(lab, 'd1', 3);
    await crashCli({ when: 'after', call: 'send', matches: /drive-backup/ }, backupArgs(lab, 'auto', '--monthly'));
    expect(await bitmapsOfDisk(lab)).toEqual(expect.arrayContaining([...oldBitmaps]));
    const full = await lab.backup('auto', '--monthly');
    expect(levels(full)).toBe('d1 full');
    const newBitmaps = await bitmapsOfDisk(lab);
    expect(newBitmaps).toHaveLength(1);
    expect(oldBitmaps).not.toContain(newBitmaps[0]);

    // A crash after the next month's FULL is sealed, before anything is tidied up.
    await makeItOld(lab, '2001-02');
    await writeSome(lab, 'd1', 4);
    await crashCli({ when: 'after', call: 'rename', matches: /catalog\.json$/ }, backupArgs(lab, 'auto', '--monthly'));
    expect(await bitmapsOfDisk(lab)).toEqual(expect.arrayContaining([...newBitmaps]));
    await writeSome(lab, 'd1', 5);
    const inc = await lab.backup('inc', '--monthly');
    expect(levels(inc)).toBe('d1 inc');
    expect(await bitmapsOfDisk(lab)).toHaveLength(2);
    expect(await bitmapsOfDisk(lab)).not.toContain(newBitmaps[0]);
    await lab.expectChainEqualsDisks(inc.target);

    // The old months are as good as they were.
    const output = join(lab.dir, 'january');
    await expectCli(0, ['restore', '--target', old, '--output', output]);
    await run('qemu-io', ['-f', 'qcow2', '-c', 'read -P 0x42 2M 64k', '-c', 'read -P 0 3M 64k', `${output}/d1.qcow2`]);
    const all = await expectCli(0, ['--json', 'list', '--target', lab.target]);
    expect(all.json<{ targets: unknown[] }>().targets).toHaveLength(3);
  });

  it('needs a name for the folder: that of the VM or --vm-name', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    await lab.vm.stop();
    lab.vm = await startQemu({ dir: lab.vm.dir, disks: lab.vm.options.disks });
    await leavingNoTrace(lab, async () => {
      await expectRefused(2, backupArgs(lab, 'auto', '--monthly'), '--monthly needs a name', /hint: .*--vm-name/);
    });
    const named = await lab.backup('auto', '--monthly', '--vm-name', '../my vm/1');
    expect(named.target).toMatch(/\/target\/_\._my vm_1-[0-9a-f]{8}\/\d{4}-\d\d$/);
    await writeSome(lab, 'd1', 1);
    expect(levels(await lab.backup('inc', '--monthly', '--vm-name', '../my vm/1'))).toBe('d1 inc');
    await leavingNoTrace(lab, async () => {
      const into = ['--json', '--socket', lab.vm.socket, 'backup', '--level', 'inc', '--target', named.target];
      const { stdout } = await expectCli(13, [...into, '--vm-name', 'another']);
      expect(stdout).toContain('belongs to VM ../my vm/1, this is VM another');
    });
  });
});

describe('options', () => {
  it.each([
    [['--uuid', 'x'], '--uuid', /--target/],
    [['--no-subdir'], '--no-subdir', /folder of its own/],
    [['--no-timestamp'], '--no-timestamp', /numbered/],
    [['--no-symlink'], '--no-symlink', /no symbolic links are made/],
    [['--remove-delay', '5'], '--remove-delay', /nothing has to be waited for/],
    [['--blockdev-aio', 'threads'], '--blockdev-aio', /defaults/],
    [['--blockdev-disable-cache'], '--blockdev-disable-cache', /defaults/],
  ] as const)('%j of the Python tool says what to do instead', async (given, name, instead) => {
    const args = ['--socket', '/none', 'backup', '--level', 'auto', '--target', '/none', ...given];
    const { stderr } = await expectRefused(2, args, `${name} is not an option of this tool`);
    expect(stderr).toMatch(new RegExp(`hint: .*${instead.source}`));
  });

  it('--speed-limit, --progress-interval and --logfile refuse what they cannot use', async () => {
    const args = ['--socket', '/none', 'backup', '--level', 'auto', '--target', '/none'];
    for (const value of ['fast', '-1', '1X', '', '1e6']) {
      await expectRefused(2, [...args, `--speed-limit=${value}`], '--speed-limit', 'such as 1048576, 512K, 20M');
    }
    await expectRefused(2, [...args, '--progress-interval', '0'], '--progress-interval', 'seconds');
    await expectRefused(2, ['--logfile', '/none/x', ...args], '--logfile /none/x cannot be written', 'no such file');
  });

  it('--speed-limit holds each job', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    await write(lab.vm, 'd1', { offset: 0, length: 32 * MiB, pattern: 0x51 });
    const running = startCli(backupArgs(lab, 'full', '--speed-limit', '1.5M'));
    let speed: number | undefined;
    while (speed === undefined) {
      const jobs = (await lab.vm.control.execute('query-block-jobs')) as { speed: number }[];
      speed = jobs[0]?.speed;
    }
    expect(speed).toBe(1.5 * MiB);
    running.kill('SIGTERM');
    expect((await running).exitCode).toBe(143);
    await lab.expectNothingLeft(0);
  });

  it('--dry-run says all and changes nothing', async () => {
    const lab = await scenario();
    await leavingNoTrace(lab, async () => {
      const { stdout } = await expectCli(0, backupArgs(lab, 'auto', '--dry-run'));
      expect(stdout).toMatch(/would take point 0 \(full\) in .*target/);
      expect(stdout).toMatch(/d2 +FULL +FULL-\d+\.qcow2 +first backup into this target/);
    });
    await lab.backup('auto');
    await writeSome(lab, 'd1', 1);
    await leavingNoTrace(lab, async () => {
      const { stdout } = await expectCli(0, backupArgs(lab, 'auto', '--dry-run'));
      expect(stdout).toMatch(/would take point 1 \(inc\)/);
      await expectCli(0, backupArgs(lab, 'auto', '--dry-run', '--monthly'));
    });
    expect((await lab.backup('inc')).point.disks[0]!.changed).toBe(65536);
  });

  it('--compress makes smaller files of the same content, by zstd where QEMU has it', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    await write(lab.vm, 'd1', { offset: 0, length: 8 * MiB, pattern: 0x61 });
    const plain = await lab.backup('full');
    const full = await lab.backup('full', '--compress');
    expect(full.point.disks[0]!.allocated).toBeLessThan(plain.point.disks[0]!.allocated / 4);
    await write(lab.vm, 'd1', { offset: 2 * MiB, length: MiB, pattern: 0x62 });
    const inc = await lab.backup('inc', '--compress');
    for (const { point } of [full, inc]) {
      const { stdout } = await run('qemu-img', ['info', '--output=json', join(lab.target, 'd1', point.disks[0]!.file)]);
      expect(JSON.parse(stdout)).toMatchObject({ 'format-specific': { data: { 'compression-type': 'zstd' } } });
    }
    await lab.expectChainEqualsDisks();
  });

  it('a target path with every odd character works', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const target = join(lab.dir, `a, b='c' "d"\\ é%{x}:y`);
    await lab.backup('full', '--target', target);
    await writeSome(lab, 'd1', 1);
    await lab.backup('inc', '--target', target);
    await lab.expectChainEqualsDisks(target);
  });
});

describe('what is said', () => {
  const ESCAPE = '\u001b';

  it('--json: one document on stdout, with a schema number, of success and of failure', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const output = join(lab.dir, 'restored');
    const commands: readonly (readonly string[])[] = [
      backupArgs(lab, 'full'),
      ['list', '--target', lab.target],
      ['--socket', lab.vm.socket, 'info', '--show', 'bitmaps'],
      ['restore', '--target', lab.target, '--output', output],
    ];
    for (const args of commands) {
      const result = await expectCli(0, ['--json', ...args]);
      expect(result.json()).toMatchObject({ schema: 1, command: args.find((word) => /^[a-z]+$/.test(word)) });
    }
    const failures: readonly [number, string, readonly string[]][] = [
      [13, 'unsafe', ['restore', '--target', lab.target, '--output', output]],
      [12, 'unreachable', ['--socket', join(lab.dir, 'none'), 'info']],
      [10, 'no-catalog', ['list', '--target', join(lab.dir, 'none')]],
      [2, 'usage', backupArgs(lab, 'full', '--include', 'd9')],
      [2, 'usage', backupArgs(lab, 'sometimes')],
      [2, 'usage', ['list']],
    ];
    for (const [exitCode, code, args] of failures) {
      const result = await expectCli(exitCode, ['--json', ...args]);
      expect(result.json()).toMatchObject({ schema: 1, error: { code, exitCode, hint: expect.any(String) as string } });
      const { message } = result.json<{ error: { message: string } }>().error;
      expect(result.stderr).toContain(message);
    }
  });

  it('--quiet leaves the answer, warnings and errors', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const loud = await expectCli(0, backupArgs(lab, 'full'));
    expect(loud.stderr).toMatch(/^d1: FULL, a full backup was asked for$/m);
    const quiet = await expectCli(0, ['--quiet', ...backupArgs(lab, 'inc')]);
    expect(quiet.stderr).toBe('');
    expect(quiet.stdout).toMatch(/^sealed point 1 of chain [0-9a-f]+ in .*, crash, /);
    const refused = await expectCli(13, ['--quiet', ...backupArgs(lab, 'full', '--exclude', 'd1')]);
    expect(refused.stderr).toMatch(/^error: there is no disk to back up\nhint: /);
  });

  it('nobody needs to read what it says', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const piped = 'exec 2>&1; "$@" | true; exit ${PIPESTATUS[0]}';
    const command = [process.execPath, PROGRAM, '--debug', ...backupArgs(lab, 'full')];
    expect((await execa('bash', ['-c', piped, 'bash', ...command], { reject: false })).exitCode).toBe(0);
    expect((await expectCli(0, backupArgs(lab, 'inc'))).stdout).toMatch(/^sealed point 1 /);
  });

  it('colours and progress lines that overwrite themselves are for terminals only', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const env = { NO_COLOR: '' };
    const piped = await qmpbackup(backupArgs(lab, 'full', '--quiesce'), { env });
    expect(piped.exitCode).toBe(0);
    expect(piped.stderr).toContain('warning: the guest cannot be frozen');
    expect(piped.stderr + piped.stdout).not.toContain(ESCAPE);
    const onTerminal = async (args: readonly string[], noColor: string): Promise<string> => {
      const command = [process.execPath, PROGRAM, ...args].map((word) => `'${word}'`).join(' ');
      const options = { env: { NO_COLOR: noColor, FORCE_COLOR: '' }, input: '' };
      return (await execa('script', ['-qec', command, '/dev/null'], options)).stdout;
    };
    const warned = backupArgs(lab, 'inc', '--quiesce');
    expect(await onTerminal(warned, '')).toContain(`${ESCAPE}[33mwarning: the guest cannot be frozen`);
    expect(await onTerminal(warned, '1')).not.toContain(`${ESCAPE}[33m`);
    expect(await onTerminal(['--color', 'never', ...warned], '')).not.toContain(`${ESCAPE}[33m`);
    const always = await qmpbackup(['--color', 'always', ...warned], { env });
    expect(always.stderr).toContain(`${ESCAPE}[33mwarning`);
  });

  it('--logfile keeps what was said, with times, for its owner only', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const logfile = join(lab.dir, 'log');
    const log = ['--logfile', logfile];
    await expectCli(0, [...log, '--quiet', ...backupArgs(lab, 'full', '--quiesce')]);
    await expectCli(2, [...log, ...backupArgs(lab, 'inc', '--include', 'd9')]);
    const lines = (await readFile(logfile, 'utf8')).trimEnd().split('\n');
    const time = '\\d{4}-\\d\\d-\\d\\dT[\\d:.]+Z';
    const said = [
      'warning the guest cannot be frozen: the VM is not running \\(prelaunch\\); the point is marked crash',
      'info d1: FULL, a full backup was asked for',
      'error --include d9: the VM has no such disk',
    ];
    // And how it ended.
    said.push('info sealed point 0 of chain ');
    for (const text of said) expect(lines).toContainEqual(expect.stringMatching(new RegExp(`^${time} ${text}`)));
    expect((await stat(logfile)).mode & 0o777).toBe(0o600);
    await expectCli(0, ['--debug', ...log, ...backupArgs(lab, 'inc')]);
    expect(await readFile(logfile, 'utf8')).toMatch(/ debug > \{.*"query-block"/);
  });

  it('a point tells a stranger how to rebuild the machine', async () => {
    const uuid = '6f2b1c1e-0000-4000-8000-000000000001';
    const lab = await scenario([{ id: 'd1' }, { id: 'd2', via: 'blockdev' }], { uuid, args: ['-smp', '2'] });
    await writeSome(lab, 'd2', 1);
    await lab.backup('full');
    const catalog = JSON.parse(await readFile(join(lab.target, 'catalog.json'), 'utf8')) as { points: unknown[] };
    expect(catalog.points[0]).toMatchObject({
      machine: {
        name: 'vm',
        uuid,
        memory: 64 * MiB,
        cpus: 2,
        qemuVersion: expect.stringMatching(/^\d+\.\d+/) as string,
      },
      vmStatus: 'prelaunch',
      consistency: 'crash',
      disks: [
        { disk: 'd1', level: 'full', parent: null, virtualSize: 64 * MiB, changed: 64 * MiB },
        {
          disk: 'd2',
          bitmap: { persistent: true },
          pieces: { method: 'gmac', bytes: 4 * MiB, sha256: expect.stringMatching(/^[0-9a-f]{64}$/) as string },
          source: {
            qdev: '/machine/peripheral/dev-d2/virtio-backend',
            image: { 'virtual-size': 64 * MiB, format: 'qcow2' },
          },
        },
      ],
    });
  });
});

it('the disk of a VM that was copied for another keeps its old bitmaps out of the way', async () => {
  const lab = await scenario([{ id: 'd1' }]);
  await writeSome(lab, 'd1', 1);
  await lab.backup('full');
  await lab.vm.stop();
  const copy = join(lab.dir, 'copy.qcow2');
  await copyFile(join(lab.dir, 'd1.qcow2'), copy);
  await lab.restart();
  const other = await startQemu({
    dir: await labDir(),
    name: 'other',
    disks: [{ id: 'd1', file: copy, format: 'qcow2' }],
  });
  afterTest(() => other.kill());
  const target = join(lab.dir, 'other');
  await expectCli(0, ['--socket', other.socket, 'backup', '--level', 'auto', '--target', target]);
  await write(other, 'd1', { offset: 4 * MiB, length: MiB, pattern: 0x71 });
  await expectCli(0, ['--socket', other.socket, 'backup', '--level', 'inc', '--target', target]);
  await expectPattern(other, 'd1', { offset: 4 * MiB, length: MiB, pattern: 0x71 });
  await writeSome(lab, 'd1', 2);
  expect(levels(await lab.backup('inc'))).toBe('d1 inc');
  await lab.expectChainEqualsDisks();
});
