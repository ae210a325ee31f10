import { copyFile, mkdir, open, readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { photograph } from '../support/chains.js';
import { expectCli } from '../support/cli.js';
import { createWritingDisk, makeExt4 } from '../support/lab/disk-images.js';
import { ensureGuest } from '../support/lab/guest.js';
import { MiB } from '../support/builders.js';
import { write } from '../support/lab/guest-writes.js';
import { type GuestVm, startQemu } from '../support/lab/qemu.js';
import { IS_LONG } from '../support/moments.js';
import { mountSmall } from '../support/mounts.js';
import { patient } from '../support/patience.js';
import { afterTest, labDir, scenario } from '../support/scenario.js';

interface Verified {
  readonly targets: readonly {
    readonly findings: readonly { readonly code: string; readonly level: string; readonly what: string }[];
    readonly booted: {
      readonly point: string;
      readonly by: string;
      readonly afterMs: number | null;
      readonly why: string | null;
      readonly evidence: readonly string[];
    } | null;
  }[];
}

interface Proved {
  readonly lab: { readonly dir: string; readonly target: string; readonly kernel: string };
  /** `verify --boot` of a point under software emulation. */
  readonly verify: (exitCode: number, ...more: string[]) => Promise<Verified['targets'][number]>;
}

/** Points that are good, a FULL and INCs; in one more the file system is damaged. */
const GOOD = Array.from({ length: IS_LONG ? 11 : 3 }, (_, point) => String(point));
const [LAST_GOOD, DAMAGED] = [String(GOOD.length - 1), String(GOOD.length)];

/** A real guest with an agent, an ext4 that it writes to, and these points. It is off then. */
async function guestWithPoints(): Promise<Proved> {
  const dir = await labDir();
  const target = join(dir, 'target');
  const file = join(dir, 'data.qcow2');
  await makeExt4({ file, label: 'DATA1', format: 'qcow2', size: 64 * MiB });
  const kernel = join(dir, 'vmlinux');
  const { kernel: lab, initramfs } = await ensureGuest();
  await copyFile(lab, kernel);
  const args = ['-device', 'VGA', '-kernel', kernel];
  const vm: GuestVm = await startQemu({
    dir: join(dir, 'vm'),
    name: 'vm',
    guest: { append: 'lab.must=d1' },
    disks: [{ id: 'd1', file }],
    args,
  });
  afterTest(() => vm.kill());
  const socket = ['--socket', vm.socket, '--agent-socket', vm.agentSocket];
  for (const point of GOOD) {
    await vm.guest.run(`echo ${point} >/mnt/d1/at-${point} && sync`);
    await expectCli(0, [...socket, 'backup', '--target', target, '--quiesce']);
  }
  // Its superblock, behind the back of the guest.
  await write(vm, 'd1', { offset: 0, length: MiB, pattern: 0x5a });
  await expectCli(0, [...socket, 'backup', '--target', target]);
  await vm.kill();
  const TMPDIR = join(dir, 't');
  await mkdir(TMPDIR);
  return {
    lab: { dir, target, kernel },
    verify: async (exitCode, ...more) => {
      const files = ['-kernel', kernel, '-initrd', initramfs];
      const asked = ['verify', '--target', target, '--boot', ...more, '--', '-accel', 'tcg', ...files];
      const timeout = patient(300_000);
      const result = await expectCli(exitCode, ['--json', ...asked], { env: { TMPDIR, NO_COLOR: '1' }, timeout });
      expect(await readdir(TMPDIR)).toEqual([]);
      expect((await readdir(target)).filter((name) => name.startsWith('open-'))).toEqual([]);
      return result.json<Verified>().targets[0]!;
    },
  };
}

async function overwrite(path: string, from: number, length: number): Promise<void> {
  const file = await open(path, 'r+');
  await file.write(Buffer.alloc(length, 0x5a), 0, length, from);
  await file.close();
}

describe('verify --boot', () => {
  it('passes on every point of a guest whose agent answers, and fails on one whose kernel is damaged', async () => {
    const { lab, verify } = await guestWithPoints();
    const evidence = join(lab.dir, 'evidence');
    const before = await photograph(lab.target);
    for (const point of GOOD) {
      const { booted, findings } = await verify(0, '--point', point, '--evidence', evidence);
      expect(booted).toMatchObject({ point: `point ${point}`, by: 'agent', why: null });
      expect(booted?.afterMs).toBeGreaterThan(1_000);
      expect(findings).toEqual([]);
      const [picture = '', serial = ''] = booted?.evidence ?? [];
      expect((await readFile(picture)).subarray(1, 4).toString()).toBe('PNG');
      expect(serial).toMatch(/\.serial\.log$/);
    }
    const serial = await verify(0, '--expect', 'serial:d1 is not (mount|there)', '--point', DAMAGED, '--timeout', '60');
    expect(serial.booted).toMatchObject({ by: 'serial', why: null });
    expect(await readdir(evidence)).toHaveLength(2 * GOOD.length);
    const memory = JSON.parse(await readFile(join(lab.target, 'verified.json'), 'utf8')) as {
      boots: { by: string; afterMs: number | null; why: null | string }[];
    };
    expect(memory.boots.map(({ by, why }) => [by, why])).toEqual([
      ...GOOD.map(() => ['agent', null]),
      ['serial', null],
    ]);
    const listed = await expectCli(0, ['list', '--target', lab.target]);
    expect(listed.stdout.match(/ \d\d:\d\d:\d\d in \d/g)).toHaveLength(GOOD.length + 1);
    const after = Object.entries(await photograph(lab.target)).filter(([name]) => !name.endsWith('verified.json'));
    expect(Object.fromEntries(after)).toEqual(before);

    const broken = await verify(4, '--point', DAMAGED, '--timeout', '30');
    expect(broken.findings[0]?.what).toBe(
      `point ${DAMAGED} does not boot: its guest agent did not answer within 30 s; the last line on its serial port: ` +
        'lab: d1 is not mounted: this is an emergency',
    );

    const { size } = await stat(lab.kernel);
    await overwrite(lab.kernel, 2 * MiB, Math.min(4 * MiB, size - 2 * MiB));
    const failed = await verify(4, '--point', LAST_GOOD, '--timeout', '20', '--evidence', join(lab.dir, 'failed'));
    expect(failed.findings[0]).toMatchObject({ level: 'error', code: 'no-boot' });
    expect(failed.findings[0]?.what).toContain(
      `point ${LAST_GOOD} does not boot: its guest agent did not answer within 20 s`,
    );
    expect(failed.booted).toMatchObject({ afterMs: null, by: 'agent' });
    expect(failed.booted?.evidence).toHaveLength(2);
  });
});

describe('verify --boot without an agent', () => {
  it('asks what to expect, and takes a VM that runs on', async () => {
    const lab = await scenario([{ id: 'd1' }], { args: ['-device', 'VGA'] });
    await lab.backup('full');
    await lab.vm.stop();
    const asked = ['verify', '--target', lab.target, '--boot'];
    const refused = await expectCli(2, asked);
    expect(refused.stderr).toContain('point 0 has no guest agent that could answer');
    const ran = await expectCli(0, [...asked, '--expect', 'running:2', '--', '-accel', 'tcg']);
    expect(ran.stdout).toMatch(/point 0 boots: it ran after \d/);
    for (const [words, more] of [
      ['go with --boot', ['--evidence', lab.dir]],
      ['is no regular expression', ['--boot', '--expect', 'serial:(']],
      ['give serial:REGEX, or running:SECONDS', ['--boot', '--expect', 'screen']],
    ] as const) {
      expect((await expectCli(2, ['verify', '--target', lab.target, ...more])).stderr).toContain(words);
    }
    const silent = await expectCli(4, [...asked, '--expect', 'serial:login:', '--timeout', '3', '--', '-accel', 'tcg']);
    expect(silent.stdout).toContain('point 0 does not boot: nothing on its serial port fitted login: within 3 s');
    const ended = await expectCli(4, [
      ...asked,
      '--agent',
      '--timeout',
      '5',
      '--',
      '-accel',
      'tcg',
      '-no-shutdown',
      '-watchdog-action',
      'none',
      '-boot',
      'order=n',
      '-no-reboot',
    ]);
    expect(ended.stdout).toContain('point 0 does not boot: its guest agent did not answer within 5 s');
  });

  it('ends before it fills the file system of temporary files, which says nothing of the point', async () => {
    const dir = await labDir();
    const disks = ['d1', 'd2'].map((id) => ({ id, file: join(dir, `${id}.qcow2`) }));
    for (const { file } of disks) await createWritingDisk({ file, format: 'qcow2', size: 16 * MiB });
    const vm = await startQemu({ dir: join(dir, 'vm'), name: 'vm', disks });
    afterTest(() => vm.kill());
    const target = join(dir, 'target');
    await expectCli(0, ['--socket', vm.socket, 'backup', '--target', target]);
    await vm.kill();
    const TMPDIR = join(dir, 't');
    const small = await mountSmall(TMPDIR, 4 * MiB);
    const asked = ['verify', '--target', target, '--boot', '--expect', 'running:60', '--', '-accel', 'tcg'];
    const full = await expectCli(1, asked, { env: { TMPDIR, NO_COLOR: '1' } });
    expect(full.stderr).toMatch(/there is no room for what the VM writes to its disks, in .*: .* of 4.0 MiB are free/);
    expect(full.stderr).toContain('This says nothing of the point.');
    expect(await readdir(TMPDIR)).toEqual([]);
    await small.fillBut(300_000);
    await expectCli(1, asked, { env: { TMPDIR, NO_COLOR: '1' } });
    expect(await readdir(TMPDIR)).toEqual(['somebody-else']);
    expect((await readdir(target)).filter((name) => /^open-|\.lock|verified/.test(name))).toEqual([]);
  });
});
