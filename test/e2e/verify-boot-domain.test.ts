import { copyFile, mkdir, open, readdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { photograph } from '../support/chains.js';
import { type CliResult, expectCli, startCli } from '../support/cli.js';
import { makeExt4 } from '../support/lab/disk-images.js';
import { ensureGuest } from '../support/lab/guest.js';
import { write } from '../support/lab/guest-writes.js';
import type { LabDomain } from '../support/lab/libvirt-domain.js';
import { MOMENTS_OF_LONG } from '../support/moments.js';
import { patient } from '../support/patience.js';
import { useLibvirt } from '../support/use-libvirt.js';

/** A domain with what is the host's: two must not have it, and a trial shall touch none of it. */
const OF_THE_HOST = (dir: string): string => `
    <interface type='user'><mac address='52:54:00:00:00:07'/><model type='virtio'/></interface>
    <serial type='file'><source path='${join(dir, 'serial.txt')}'/></serial>
    <video><model type='vga'/></video>
    <graphics type='vnc' port='${PORT}' autoport='no' listen='127.0.0.1'/>
    <filesystem type='mount'><source dir='${dir}'/><target dir='host'/></filesystem>`;
const PORT = 15_900 + (process.pid % 10_000);

interface Verified {
  readonly findings: readonly { readonly code: string; readonly level: string; readonly what: string }[];
  readonly booted: {
    readonly point: string;
    readonly by: string;
    readonly afterMs: number | null;
    readonly why: string | null;
    readonly evidence: readonly string[];
  } | null;
}

const lab = useLibvirt();
let [target, kernel, TMPDIR] = ['', '', ''];
let domain: LabDomain;

/** The domain runs on. Two points are good; in the last its file system is damaged. */
beforeAll(async () => {
  [target, kernel, TMPDIR] = ['target', 'vmlinux', 'tmp'].map((name) => join(lab.dir, name)) as [
    string,
    string,
    string,
  ];
  await mkdir(TMPDIR);
  const file = join(lab.dir, 'images', 'data.qcow2');
  await makeExt4({ file, label: 'DATA1', format: 'qcow2', size: 64 * MiB });
  await copyFile((await ensureGuest()).kernel, kernel);
  const [disks, guest] = [[{ target: 'vda', file }], { kernel, append: 'lab.must=d1' }];
  domain = await lab.define({ name: 'original', disks, guest, devices: OF_THE_HOST(lab.dir) });
  await domain.start();
  const backup = ['--connect', lab.uri, '--domain', domain.name, 'backup', '--target', target];
  for (const text of ['one', 'two']) {
    await domain.guest.run(`echo ${text} >/mnt/d1/${text} && sync`);
    await expectCli(0, [...backup, '--quiesce']);
  }
  // Its superblock, behind the back of the guest.
  await write(domain, 'vda', { offset: 0, length: MiB, pattern: 0x5a });
  await expectCli(0, backup);
}, patient(120_000));

function asked(...more: string[]): readonly string[] {
  return ['--json', '--connect', lab.uri, 'verify', '--target', target, '--boot', ...more];
}

async function verify(exitCode: number, ...more: string[]): Promise<Verified> {
  const result = await expectCli(exitCode, asked(...more), {
    env: { TMPDIR, NO_COLOR: '1' },
    timeout: patient(200_000),
  });
  await expectNothingLeft();
  return verified(result);
}

function verified(result: CliResult): Verified {
  return result.json<{ readonly targets: readonly Verified[] }>().targets[0]!;
}

async function domains(): Promise<readonly string[]> {
  return (await lab.virsh(['list', '--all', '--name'])).stdout.split('\n').filter(Boolean);
}

async function expectNothingLeft(): Promise<void> {
  expect(await domains()).toEqual([domain.name]);
  expect(await readdir(TMPDIR)).toEqual([]);
  expect((await readdir(target)).filter((name) => name.startsWith('open-'))).toEqual([]);
}

async function until(condition: () => Promise<boolean>, what: string): Promise<void> {
  for (const end = Date.now() + patient(60_000); !(await condition()); await sleep(50)) {
    if (Date.now() > end) throw new Error(`${what} has not come`);
  }
}

/** The name of the VM of a run, when its guest is at work. */
async function trialAtWork(): Promise<string> {
  let name = '';
  await until(async () => {
    name = (await domains()).find((each) => each !== domain.name) ?? '';
    if (name === '') return false;
    const { stdout } = await lab.virsh(['domstats', '--cpu-total', name], { allowed: [0, 1] });
    return Number(/cpu\.time=(\d+)/.exec(stdout)?.[1] ?? 0) > 1e9;
  }, 'the VM');
  return name;
}

async function filesOf(folder: string) {
  const files = Object.entries(await photograph(folder));
  return Object.fromEntries(files.filter(([name]) => !/open-|verified\.json/.test(name)));
}

it('passes on the good points of a domain beside the original, and fails on a damaged file system and a damaged kernel', async () => {
  const before = await filesOf(target);
  const evidence = join(lab.dir, 'evidence');
  const { booted, findings } = await verify(0, '--point', '1', '--evidence', evidence);
  expect(findings).toEqual([]);
  expect(booted).toMatchObject({ point: 'point 1', by: 'agent', why: null });
  expect(booted?.afterMs).toBeGreaterThan(1_000);
  const [picture = '', serial = ''] = booted?.evidence ?? [];
  expect((await readFile(picture)).subarray(1, 4).toString()).toBe('PNG');
  expect(serial).toMatch(/\.serial\.log$/);

  const broken = await verify(4, '--point', '2', '--timeout', '25', '--evidence', join(lab.dir, 'broken'));
  expect(broken.findings[0]).toMatchObject({ level: 'error', code: 'no-boot' });
  expect(broken.findings[0]?.what).toMatch(
    /^point 2 does not boot: its guest agent did not answer within 25 s; the last line on its serial port: lab: d1 is not mounted/,
  );
  const [screen = '', log = ''] = broken.booted?.evidence ?? [];
  expect((await readFile(screen)).subarray(1, 4).toString()).toBe('PNG');
  expect(await readFile(log, 'utf8')).toContain('d1 is not mounted');

  const { size } = await stat(kernel);
  await overwrite(kernel, 2 * MiB, Math.min(4 * MiB, size - 2 * MiB));
  const failed = await verify(4, '--point', '1', '--timeout', '6', '--evidence', join(lab.dir, 'failed'));
  expect(failed.findings[0]?.what).toMatch(/^point 1 does not boot: /);
  expect(failed.booted).toMatchObject({ afterMs: null, by: 'agent' });
  expect(failed.booted?.evidence).toHaveLength(2);
  await copyFile((await ensureGuest()).kernel, kernel);

  const listed = await expectCli(0, ['list', '--target', target]);
  expect(listed.stdout).toMatch(/ \d\d:\d\d:\d\d/);
  expect(await filesOf(target)).toEqual(before);
  // The original has not noticed: its port is its own, and so is its file.
  expect(await domain.state()).toBe('running');
  await domain.guest.run('true');
});

async function overwrite(path: string, from: number, length: number): Promise<void> {
  const file = await open(path, 'r+');
  await file.write(Buffer.alloc(length, 0x5a), 0, length, from);
  await file.close();
}

it('has a VM that ends with the tool, or is ended by the next run where libvirt was killed, too', async () => {
  const running = ['--expect', 'running:100'];
  for (const alsoLibvirt of [false, true]) {
    const killed = startCli(asked('--point', '1', ...running), { env: { TMPDIR } });
    const name = await trialAtWork();
    const xml = (await lab.virsh(['dumpxml', name])).stdout;
    expect(xml).toMatch(/<interface type='user'>\s*<mac address='52:54:00:00:00:07'\/>[^]*<link state='down'\/>/);
    expect(xml).not.toMatch(/serial\.txt|<graphics|<filesystem|nocontrol/);
    if (!alsoLibvirt) {
      const other = await expectCli(11, asked('--point', '0', ...running), { env: { TMPDIR } });
      expect(other.stderr).toContain(`there is a domain ${name} of this target: verify --boot of point 1 (pid `);
    } else {
      await lab.stopDaemon('kill');
    }
    killed.kill('SIGKILL');
    await killed;
    if (alsoLibvirt) {
      await lab.startDaemon();
      expect(await domains()).toHaveLength(2);
    } else {
      await until(async () => (await domains()).length === 1, 'its end');
    }
    const sign = alsoLibvirt ? 'running:1' : 'serial:d1 is not (mount|there)';
    const { booted } = await verify(0, '--point', '2', '--expect', sign);
    expect(booted).toMatchObject({ by: sign.split(':')[0], why: null });
  }
});

it(
  'killed at any moment it leaves nothing that the next run does not clear',
  { timeout: patient(600_000) },
  async () => {
    const before = await filesOf(target);
    const soon = ['--point', '1', '--expect', 'running:1'];
    const begun = performance.now();
    await verify(0, ...soon);
    const took = performance.now() - begun;
    for (let moment = 0; moment < MOMENTS_OF_LONG; moment += 1) {
      const child = startCli(asked(...soon), { env: { TMPDIR } });
      await sleep(took * (0.1 + 0.9 * Math.random()));
      child.kill('SIGKILL');
      await child;
      // libvirt may be starting it yet.
      await until(async () => (await domains()).length === 1, 'the end of its VM');
      await expectCli(0, asked(...soon), { env: { TMPDIR, NO_COLOR: '1' }, timeout: patient(200_000) });
      expect(await domains()).toEqual([domain.name]);
      expect((await readdir(target)).filter((name) => name.startsWith('open-'))).toEqual([]);
      expect(await filesOf(target)).toEqual(before);
    }
    expect(await domain.state()).toBe('running');
    // But for folders whose maker was killed before it had said whose they are: those go after a minute.
    for (const folder of await readdir(TMPDIR)) {
      expect(await readdir(join(TMPDIR, folder))).toEqual([]);
      await rm(join(TMPDIR, folder), { recursive: true });
    }
  },
);

it('says nothing of a point whose VM libvirt does not start or loses, and refuses what it cannot be given', async () => {
  const words = await expectCli(2, asked('--', '-m', '64'));
  expect(words.stderr).toContain('which takes no arguments for QEMU');
  const losing = startCli(asked('--point', '1', '--expect', 'running:100'), { env: { TMPDIR } });
  await trialAtWork();
  await lab.stopDaemon('kill');
  await lab.startDaemon();
  const lost = await losing;
  expect(lost.stderr).toContain('the connection to libvirt was lost');
  expect(lost.exitCode).toBe(1);
  await expectNothingLeft();
  await overwrite(kernel, 0, 4096);
  const refused = await expectCli(1, asked('--point', '1'), { env: { TMPDIR } });
  expect(refused.stderr).toContain('libvirt does not start the domain: ');
  await expectNothingLeft();
});
