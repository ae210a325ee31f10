import { textsOf } from '../support/scenario.js';
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readFile, rename, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { CleanupAnswer } from '../support/cleanup-answer.js';
import { expectCli } from '../support/cli.js';
import { type DomainScenario, domainScenario } from '../support/domain-scenario.js';
import { compareImages } from '../support/lab/compare.js';
import { createImage } from '../support/lab/disk-images.js';
import { write } from '../support/lab/guest-writes.js';
import { run } from '../support/lab/programs.js';
import { useLibvirt } from '../support/use-libvirt.js';

const MiB = 1024 * 1024;
const SIZE = 32 * MiB;

const lab = useLibvirt();
/** `vda` a volume of a pool, `vdb` over NBD, `vdc` a block device. */
let scenario: DomainScenario;
const disks = ['vda', 'vdb', 'vdc'] as const;
const end: (() => unknown)[] = [];
const image = (name: string): string => join(lab.dir, 'storage', name);

beforeAll(async () => {
  await run('mkdir', [image('')]);
  for (const name of ['vda', 'vdb', 'vdc']) await createImage({ file: image(name), format: 'qcow2', size: SIZE });
  await lab.virsh(['pool-define-as', 'storage', 'dir', '--target', image('')]);
  await lab.virsh(['pool-start', 'storage']);
  // An export and a device are as large as they were made, and qcow2 grows.
  for (const name of ['vdb', 'vdc']) await truncate(image(name), 2 * SIZE);
  const socket = join(lab.dir, 'nbd.sock');
  await serve(image('vdb'), socket);
  const { stdout: device } = await run('losetup', ['--find', '--show', image('vdc')]);
  end.push(() => run('losetup', ['--detach', device.trim()]));
  const disk = (type: string, source: string, target: string): string =>
    `<disk type='${type}' device='disk'><driver name='qemu' type='qcow2'/>${source}<target dev='${target}' bus='virtio'/></disk>`;
  const devices = [
    disk('volume', `<source pool='storage' volume='vda'/>`, 'vda'),
    disk('network', `<source protocol='nbd'><host transport='unix' socket='${socket}'/></source>`, 'vdb'),
    disk('block', `<source dev='${device.trim()}'/>`, 'vdc'),
  ].join('');
  scenario = await domainScenario(lab, { name: 'storage', disks: [], devices });
});
afterAll(async () => {
  await scenario.domain.destroy().catch(() => undefined);
  for (const step of end) await step();
});

async function serve(file: string, socket: string): Promise<void> {
  const args = ['--pdeathsig', 'KILL', 'qemu-nbd', '--persistent', '--shared=8', '-f', 'raw', '-k', socket, file];
  const child = spawn('setpriv', args, { stdio: 'inherit' });
  end.push(() => child.kill());
  while (!existsSync(socket)) await sleep(20);
}

async function writeAll(offset: number, pattern: number): Promise<void> {
  for (const disk of disks) await write(scenario.domain, disk, { offset: offset * MiB, length: MiB, pattern });
}

async function expectRestored(target = scenario.target): Promise<void> {
  const output = join(lab.dir, `restored-${Math.random().toString(36).slice(2)}`);
  await expectCli(0, ['restore', '--target', target, '--output', output]);
  for (const disk of disks) await compareImages(join(output, `${disk}.qcow2`), image(disk));
}

async function bitmapsOf(disk: string): Promise<string[]> {
  const { stdout } = await run('qemu-img', ['info', '-U', '--output=json', image(disk)]);
  return [...stdout.matchAll(/"name": "(qmpbackup-[^"]+)"/g)].map(([, name = '']) => name);
}

describe('a domain whose disks are a volume, an NBD export and a block device', () => {
  it('is backed up when it runs and when it is off, as one chain', async () => {
    await writeAll(0, 0x11);
    expect((await scenario.backup('auto')).point.level).toBe('full');
    await writeAll(1, 0x12);
    await scenario.domain.destroy();
    const doctor = await expectCli(0, [...scenario.vm, 'doctor', '--target', scenario.target]);
    expect(doctor.stdout).toMatch(/^info {5}vdb: the next backup is INC/m);
    const { point, warnings } = await scenario.backup('inc', '--verify');
    expect(point).toMatchObject({ number: 1, level: 'inc', consistency: 'offline' });
    expect(point.disks.map(({ disk, changed }) => [disk, changed])).toEqual(disks.map((disk) => [disk, MiB]));
    expect(textsOf(warnings)).toEqual([expect.stringMatching(/^vdb .*no lock keeps another host from writing/)]);
    await expectRestored();
    const { stdout } = await expectCli(0, [...scenario.vm, 'info']);
    expect(stdout).toMatch(new RegExp(`^vda .* 32\\.0 MiB +${image('vda')}$`, 'm'));
    expect(stdout).toMatch(/^vdb .* 32\.0 MiB +network$/m);
    await scenario.domain.start();
    await writeAll(2, 0x13);
    expect((await scenario.backup('inc')).point).toMatchObject({ number: 2, level: 'inc' });
    await scenario.domain.destroy();
    await expectRestored();
    const target = join(lab.dir, 'started-paused');
    const started = [...scenario.vm, 'backup', '--level', 'auto', '--start-paused', '--target', target];
    await expectCli(0, [...started, '--dry-run']);
    await expectCli(0, started);
    await expectRestored(target);
  });

  it('loses no checkpoint of which a bitmap cannot be removed while it is off, and says so', async () => {
    const before = await scenario.checkpoints();
    expect(before.length).toBeGreaterThan(0);
    const cleanup = ['--json', ...scenario.vm, 'cleanup', '--remove-bitmaps'];
    for (const args of [cleanup, [...cleanup, '--dry-run']]) {
      const { stderr } = await expectCli(13, args);
      expect(stderr).toMatch(/stays while the domain is off: nothing keeps others .*\n.*hint: .*Start the domain/);
    }
    expect(await scenario.checkpoints()).toEqual(before);
    for (const disk of disks) expect((await bitmapsOf(disk)).sort()).toEqual([...before].sort());
    // A checkpoint of the other two alone goes, and what is said of each is so.
    const target = join(lab.dir, 'two');
    await scenario.domain.start();
    await scenario.backup('auto', '--exclude', 'vdb', '--target', target);
    await scenario.domain.destroy();
    const { bitmaps, stuck } = (await expectCli(3, cleanup)).json<CleanupAnswer>();
    for (const disk of disks) {
      const there = await bitmapsOf(disk);
      for (const { bitmap, removed } of bitmaps.filter(({ where }) => where === disk)) {
        expect([disk, bitmap, removed]).toEqual([disk, bitmap, !there.includes(bitmap)]);
      }
    }
    expect(new Set(stuck.map(({ bitmap }) => bitmap))).toEqual(new Set(before));
    expect([...(await scenario.checkpoints())].sort()).toEqual([...before].sort());
    await scenario.domain.start();
    await expectCli(0, cleanup);
    await scenario.domain.destroy();
    for (const disk of disks) expect(await bitmapsOf(disk)).toEqual([]);
  });

  it('and cannot be read: each hint leads on', async () => {
    const auto = [...scenario.vm, 'backup', '--level', 'auto', '--target', join(lab.dir, 'hints')];
    await lab.virsh(['pool-destroy', 'storage']);
    expect((await expectCli(13, auto)).stderr).toMatch(
      /vda.*pool 'storage' is not active\n.*virsh .*pool-start storage/,
    );
    await lab.virsh(['pool-start', 'storage']);
    await rename(image('vda'), image('vda.away'));
    await lab.virsh(['pool-refresh', 'storage']);
    expect((await expectCli(13, auto)).stderr).toMatch(/vda.*Storage volume not found.*\n.*--exclude vda/);
    await rename(image('vda.away'), image('vda'));
    await lab.virsh(['pool-refresh', 'storage']);
    const before = await readFile(image('vdc'));
    await expectCli(0, auto);
    expect((await readFile(image('vdc'))).equals(before)).toBe(true);
  });
});
