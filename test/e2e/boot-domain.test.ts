import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { endProcess, isAlive } from '../support/booted.js';
import { photograph } from '../support/chains.js';
import { expectCli, startCli } from '../support/cli.js';
import { type DomainScenario, domainWithFull, writeBothDisks } from '../support/domain-scenario.js';
import { checkFs, compareImages } from '../support/lab/compare.js';
import { makeExt4 } from '../support/lab/disk-images.js';
import { flush, write } from '../support/lab/guest-writes.js';
import type { LabDomain } from '../support/lab/libvirt-domain.js';
import { run } from '../support/lab/programs.js';
import { MOMENTS_OF_LONG } from '../support/moments.js';
import { patient } from '../support/patience.js';
import { afterTest } from '../support/scenario.js';
import { useLibvirt } from '../support/use-libvirt.js';

const MiB = 1024 * 1024;
const CARD = `<interface type='user'><mac address='52:54:00:00:00:07'/><model type='virtio'/></interface>`;

const lab = useLibvirt();
let count = 0;

interface Booted {
  readonly state: 'started' | 'already-running';
  readonly point: string;
  readonly pid: null;
  readonly domain: { readonly name: string; readonly uuid: string };
  readonly disks: readonly { readonly disk: string; readonly overlay: string; readonly leans: boolean }[];
}

interface Folder {
  readonly to: string;
  /** `qmpbackup --connect … boot --target … --to …`, and what comes after it. */
  readonly args: (...more: string[]) => readonly string[];
  /** Where the tool keeps its private folders. */
  readonly env: { readonly TMPDIR: string };
  boot(...more: string[]): Promise<Booted>;
  /** Of the process that keeps the daemons, as the mark in the target names it. */
  keeper(): Promise<number>;
  expectNothingOpen(): Promise<void>;
}

/** A folder of overlays for points of `target`. */
async function folderFor(target: string): Promise<Folder> {
  count += 1;
  const to = join(lab.dir, `to-${count}`);
  const env = { TMPDIR: join(lab.dir, `tmp-${count}`) };
  await mkdir(env.TMPDIR);
  const args = (...more: string[]) => ['--connect', lab.uri, 'boot', '--target', target, '--to', to, ...more];
  const self: Folder = {
    ...{ to, env, args },
    boot: async (...more) => (await expectCli(0, ['--json', ...args(...more)], { env })).json<Booted>(),
    keeper: async () => {
      const [mark = ''] = await marksIn(target);
      const { pid } = JSON.parse(await readFile(join(target, mark), 'utf8')) as { pid: number };
      afterTest(() => endProcess(pid, 'SIGKILL'));
      return pid;
    },
    expectNothingOpen: async () => {
      expect(await marksIn(target)).toEqual([]);
      expect(await readdir(env.TMPDIR)).toEqual([]);
      expect(existsSync(join(to, 'backup.sock'))).toBe(false);
    },
  };
  return self;
}

async function marksIn(target: string): Promise<readonly string[]> {
  return (await readdir(target)).filter((name) => name.startsWith('open-'));
}

/** The files of the backup, without what comes and goes beside them. */
async function filesOf(target: string) {
  const files = Object.entries(await photograph(target));
  return Object.fromEntries(files.filter(([name]) => !/open-|verified\.json/.test(name)));
}

/** A FULL and an INC of a domain with a network card. */
async function withPoints(devices = ''): Promise<DomainScenario> {
  const scenario = await domainWithFull(lab, { devices: CARD + devices });
  await writeBothDisks(scenario, 8, 0x22);
  await scenario.backup('inc');
  for (const disk of ['vda', 'vdb']) await flush(scenario.domain, disk);
  return scenario;
}

async function lose({ domain }: DomainScenario): Promise<void> {
  await domain.destroy();
  await undefine(domain.uuid);
}

async function undefine(uuid: string): Promise<void> {
  await lab.virsh(['undefine', uuid, '--checkpoints-metadata']);
}

async function xmlOf(uuid: string, ...more: string[]): Promise<string> {
  return (await lab.virsh(['dumpxml', ...more, '--domain', uuid])).stdout;
}

async function until(condition: () => Promise<boolean> | boolean, what: string): Promise<void> {
  for (const end = Date.now() + patient(60_000); !(await condition()); await sleep(100)) {
    if (Date.now() > end) throw new Error(`${what} has not come`);
  }
}

/** The domain stands alone by its definition: libvirt starts it, and its disks are these. */
async function expectStandsAlone(domain: LabDomain, to: string): Promise<void> {
  const inactive = await xmlOf(domain.uuid, '--inactive');
  expect(inactive).not.toContain('nbd');
  for (const disk of ['vda', 'vdb']) {
    expect(inactive).toContain(`<source file='${join(to, `${disk}.qcow2`)}'/>`);
    const { stdout } = await run('qemu-img', ['info', '--force-share', '--output=json', join(to, `${disk}.qcow2`)]);
    expect(JSON.parse(stdout)).not.toHaveProperty('backing-filename');
  }
}

describe('boot of a point of a domain', () => {
  it('defines and starts it above the backup, without a link, and frees it although the tool is killed', async () => {
    const scenario = await withPoints();
    const { domain, target } = scenario;
    const folder = await folderFor(target);
    const { to } = folder;
    const taken = await expectCli(13, folder.args());
    expect(taken.stderr).toContain(`there is a domain ${domain.name}, and it is not replaced`);
    expect(existsSync(to)).toBe(false);
    await lose(scenario);
    const before = await filesOf(target);
    for (const [words, more] of [
      ['takes no arguments for QEMU', ['--', '-m', '64']],
      ['takes no channel for an agent', ['--agent']],
    ] as const) {
      expect((await expectCli(2, folder.args(...more))).stderr).toContain(words);
    }

    const booted = await folder.boot();
    expect(booted).toMatchObject({ state: 'started', point: 'point 1', pid: null, domain: { uuid: domain.uuid } });
    expect(booted.disks.map(({ leans }) => leans)).toEqual([true, true]);
    const xml = await xmlOf(domain.uuid);
    expect(xml).toMatch(/<mac address='52:54:00:00:00:07'\/>[^]*<link state='down'\/>/);
    const keeper = await folder.keeper();
    const refused = await expectCli(11, ['rebase', '--target', target, '--disk', 'vda']);
    expect(refused.stderr).toContain(`boot of point 1 (pid ${keeper} on `);
    expect(refused.stderr).toMatch(new RegExp(`end the domain \\(.*shutdown ${domain.name}\\)`));
    // Who ends a group of processes does not take the disks of a guest.
    process.kill(keeper, 'SIGTERM');
    await write(domain, 'vda', { offset: MiB, length: MiB, pattern: 0x33 });

    const killed = startCli(folder.args('--stream', '--rate-limit', '1M'), { env: folder.env });
    const pulls = async () =>
      (await lab.virsh(['blockjob', domain.uuid, 'vda', '--info'])).stderr.includes('Block Pull');
    await until(pulls, 'the job');
    killed.kill('SIGKILL');
    await killed;
    expect(isAlive(keeper)).toBe(true);
    await write(domain, 'vda', { offset: 2 * MiB, length: MiB, pattern: 0x44 });
    expect(await folder.boot()).toMatchObject({ state: 'already-running', disks: [{ leans: true }, { leans: true }] });
    const unheard = async () => (await expectCli(2, folder.args('--network', 'as-recorded'))).stderr;
    const words = `the domain ${domain.name} is defined already, without --network as-recorded`;
    expect(await unheard()).toContain(words);
    const freed = await folder.boot('--stream');
    expect(freed).toMatchObject({ state: 'already-running', disks: [{ leans: false }, { leans: false }] });
    await folder.expectNothingOpen();
    await until(() => !isAlive(keeper), 'the end of the keeper');
    expect(await filesOf(target)).toEqual(before);
    await expectStandsAlone(domain, to);

    // It is a domain as any other: started by libvirt, and backed up.
    await domain.destroy();
    await domain.start();
    await domain.destroy();
    expect(await unheard()).toContain(words);
    for (const [offset, pattern] of [
      [1, 0x33],
      [2, 0x44],
    ]) {
      await run('qemu-io', ['-c', `write -P ${pattern} ${offset}M 1M`, scenario.fileOf('vda')]);
    }
    for (const disk of ['vda', 'vdb']) await compareImages(join(to, `${disk}.qcow2`), scenario.fileOf(disk));
    expect(await folder.boot()).toMatchObject({ state: 'started', disks: [{ leans: false }, { leans: false }] });
    await folder.expectNothingOpen();
    await domain.destroy();
  });

  it('ends its daemons with the domain, and starts it again from its overlays, defined or not', async () => {
    const scenario = await withPoints();
    const { domain, target } = scenario;
    await lose(scenario);
    const folder = await folderFor(target);
    await folder.boot('--network', 'as-recorded');
    expect(await xmlOf(domain.uuid)).not.toContain(`<link state='down'/>`);
    const first = await folder.keeper();
    await write(domain, 'vda', { offset: MiB, length: MiB, pattern: 0x33 });
    await flush(domain, 'vda');
    await domain.kill();
    await until(() => !isAlive(first), 'the end of the keeper');
    await expectCli(0, ['rebase', '--target', target, '--disk', 'vda', '--dry-run']);

    const again = await folder.boot('--network', 'as-recorded');
    expect(again).toMatchObject({ state: 'started', domain: { uuid: domain.uuid } });
    const second = await folder.keeper();
    expect(second).not.toBe(first);
    await domain.destroy();
    await undefine(domain.uuid);
    await until(() => !isAlive(second), 'the end of the keeper');
    // Nobody has asked for it: whoever comes next clears the mark.
    const anew = await folder.boot('--stream');
    expect(anew).toMatchObject({ state: 'started', domain: { uuid: domain.uuid } });
    await folder.expectNothingOpen();
    await domain.destroy();
    const image = join(folder.to, 'vda.qcow2');
    await run('qemu-io', ['-c', 'read -P 0x33 1M 1M', '-c', 'read -P 0x22 8M 1M', image]);
    await expectStandsAlone(domain, folder.to);
  });

  it('makes another domain beside the original, which goes on with its backups', async () => {
    // Both cannot have it.
    const port = 15_900 + (process.pid % 10_000);
    const scenario = await withPoints(`<graphics type='vnc' port='${port}' autoport='no'/>`);
    const { domain, target } = scenario;
    const folder = await folderFor(target);
    const failed = await expectCli(1, folder.args('--name', 'twin'), { env: folder.env });
    expect(failed.stderr).toContain('libvirt does not start the domain twin');
    await until(async () => (await readdir(folder.env.TMPDIR)).length === 0, 'the end of the daemons');
    await folder.expectNothingOpen();
    const { stdout: uuid } = await lab.virsh(['domuuid', 'twin']);
    const file = join(lab.dir, 'twin.xml');
    await writeFile(file, (await xmlOf('twin', '--inactive')).replace(`port='${port}'`, `port='${port + 1}'`));
    await lab.virsh(['define', file]);
    const other = await expectCli(2, folder.args('--name', 'other'));
    expect(other.stderr).toContain('is called twin');
    const twin = await folder.boot();
    expect(twin).toMatchObject({ state: 'started', domain: { name: 'twin', uuid: uuid.trim() } });
    expect(twin.domain.uuid).not.toBe(domain.uuid);
    expect(await xmlOf('twin')).not.toContain('52:54:00:00:00:07');
    await folder.keeper();
    await writeBothDisks(scenario, 12, 0x55);
    await scenario.backup('inc');
    const wrong = await expectCli(11, folder.args('--point', '2'));
    expect(wrong.stderr).toContain('a VM of point 1 of');
    await lab.virsh(['destroy', 'twin']);
    await lab.virsh(['undefine', 'twin']);
    await scenario.expectChainEqualsDisks();
  });
});

it(
  'killed at any moment it is gone on with by the next boot, and nothing is left of it',
  { timeout: patient(600_000) },
  async () => {
    const scenario = await withPoints();
    const { domain, target } = scenario;
    await lose(scenario);
    const before = await filesOf(target);
    const first = await folderFor(target);
    const begun = performance.now();
    await first.boot('--stream');
    const took = performance.now() - begun;
    await domain.destroy();
    await undefine(domain.uuid);
    for (let moment = 0; moment < MOMENTS_OF_LONG; moment += 1) {
      const folder = await folderFor(target);
      const child = startCli(folder.args('--stream'), { env: folder.env });
      await sleep(took * (0.1 + 0.9 * Math.random()));
      child.kill('SIGKILL');
      await child;
      const made = (await readdir(folder.to).catch(() => [])).filter((name) => name.endsWith('.qcow2'));
      const booted = await folder.boot('--stream');
      expect(booted).toMatchObject({ domain: { uuid: domain.uuid }, disks: [{ leans: false }, { leans: false }] });
      expect(await readdir(folder.to)).toEqual(expect.arrayContaining(made));
      await folder.expectNothingOpen();
      expect(await keepersOf(folder.to)).toEqual([]);
      expect(await filesOf(target)).toEqual(before);
      await domain.destroy();
      await undefine(domain.uuid);
      for (const disk of ['vda', 'vdb']) await compareImages(join(folder.to, `${disk}.qcow2`), scenario.fileOf(disk));
    }
  },
);

/** Command lines of our processes that name a folder, but for those of libvirt's QEMU. */
async function keepersOf(folder: string): Promise<readonly string[]> {
  const found: string[] = [];
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (command.includes(folder) && !command.includes('qemu-system')) found.push(command.replaceAll('\0', ' '));
  }
  return found;
}

it('a guest that writes all the time is freed from its backup, although the tool is killed', async () => {
  const dir = join(lab.dir, 'images');
  const disks = ['vda', 'vdb'].map((target) => ({ target, file: join(dir, `writer-${target}.qcow2`) }));
  for (const [index, { file }] of disks.entries()) {
    await makeExt4({ file, label: `DATA${index + 1}`, format: 'qcow2', size: 64 * MiB });
  }
  const domain = await lab.define({ name: 'writer', disks, guest: { workload: ['writer'] } });
  await domain.start();
  await domain.guest.waitForWorkload('writer');
  const target = join(lab.dir, 'target-writer');
  for (const mount of ['/mnt/d1', '/mnt/d2', '/mnt/d1']) {
    await expectCli(0, ['--connect', lab.uri, '--domain', 'writer', 'backup', '--target', target, '--quiesce']);
    await domain.guest.untilWritten(mount);
  }
  await domain.destroy();
  await undefine(domain.uuid);
  const before = await filesOf(target);

  const folder = await folderFor(target);
  const killed = startCli(folder.args('--stream', '--rate-limit', '1M'), { env: folder.env });
  const image = join(folder.to, 'vda.qcow2');
  const kib = async () => Number((await run('du', ['-k', image], { allowed: [0, 1] })).stdout.split('\t')[0]);
  await until(async () => existsSync(image) && (await kib()) > 2048, 'a copy');
  killed.kill('SIGKILL');
  await killed;
  const keeper = await folder.keeper();
  expect(isAlive(keeper)).toBe(true);
  const freed = await folder.boot('--stream');
  expect(freed).toMatchObject({ state: 'already-running', disks: [{ leans: false }, { leans: false }] });
  await folder.expectNothingOpen();
  await expectCli(0, ['verify', '--target', target, '--read-data']);
  expect(await filesOf(target)).toEqual(before);

  // It has booted from the disks that it was freed from, and unmounts them.
  const answers = async () =>
    (await lab.virsh(['domfsinfo', domain.uuid], { allowed: [0, 1] })).stdout.includes('/mnt/d2');
  await until(answers, 'the agent');
  await domain.shutdown();
  for (const { target: disk } of disks) await checkFs(join(folder.to, `${disk}.qcow2`));
  await expectStandsAlone(domain, folder.to);
  await domain.start();
  await domain.guest.waitForWorkload('writer');
  await domain.destroy();
});
