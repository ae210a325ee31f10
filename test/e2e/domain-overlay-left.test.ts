import { existsSync } from 'node:fs';
import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { expectCli } from '../support/cli.js';
import { crashCli, type CrashPoint } from '../support/crash-point.js';
import { domainScenario, guardsOf } from '../support/domain-scenario.js';
import { createImage } from '../support/lab/disk-images.js';
import { expectPattern, flush, write } from '../support/lab/guest-writes.js';
import { run } from '../support/lab/programs.js';
import { type OverlaidDomain, overlaidDomain, OVERLAID } from '../support/overlaid-domain.js';
import { patient } from '../support/patience.js';
import { startRun } from '../support/running-backup.js';
import { useLibvirt, useSmallFolder } from '../support/use-libvirt.js';

/** Overlays that a run could not merge: who does it then, and whose bytes they may be by now. */
const MiB = 1024 * 1024;

const small = useSmallFolder('48m');
const lab = useLibvirt();

const COPYING: CrashPoint = { when: 'after', call: 'spawn', matches: /^setpriv .*qemu-nbd/ };

/** A copy by overlay that dies while it reads the images below. */
async function killedCopy(vm: OverlaidDomain, guards: 'act' | 'die'): Promise<void> {
  const args = [...vm.vm, 'backup', '--level', 'copy', '--method', 'overlay', '--overlay-dir', vm.overlays];
  await crashCli({ ...COPYING, guards }, [...args, '--target', vm.target]);
}

const topOf = async (vm: OverlaidDomain, disk: string): Promise<string> => (await vm.chainOf(disk))[0] ?? '';

describe('after a run was killed', () => {
  it('its guard merges the overlays, long before there is another run', async () => {
    const vm = await overlaidDomain(lab);
    await vm.writeAll(1, 0x11);
    await killedCopy(vm, 'act');
    await vm.writeAll(2, 0x12);
    await expect.poll(() => readdir(vm.overlays), { timeout: patient(60_000), interval: 200 }).toEqual([]);
    await expect.poll(() => guardsOf(vm.domain.uuid), { timeout: patient(20_000), interval: 200 }).toEqual([]);
    for (const disk of OVERLAID) {
      expect(await vm.chainOf(disk)).toEqual([vm.imageOf(disk)]);
      await expectPattern(vm.domain, disk, { offset: 2 * MiB, length: MiB, pattern: 0x12 });
    }
    await expectCli(0, [...vm.vm, 'recover', '--target', vm.target]);
    await vm.expectLayers(0);
    expect((await vm.overlay('copy')).warnings).toEqual([]);
  });

  it('an overlay whose disk was detached since stays, with all that the guest wrote', async () => {
    const vm = await overlaidDomain(lab);
    await vm.writeAll(1, 0x21);
    await killedCopy(vm, 'die');
    await vm.writeAll(2, 0x22);
    for (const disk of OVERLAID) await flush(vm.domain, disk);
    const overlay = await topOf(vm, 'vdb');
    await vm.domain.destroy();
    await lab.virsh(['detach-disk', vm.domain.uuid, 'vdb', '--config']);
    await vm.domain.start();
    const { stderr } = await expectCli(0, [...vm.vm, 'recover', '--target', vm.target]);
    expect(stderr).toContain(`${overlay} holds what the guest wrote to a disk that is attached no more`);
    expect(await readdir(vm.overlays)).toEqual([overlay.split('/').pop()]);
    await lab.virsh([...['attach-disk', vm.domain.uuid, overlay, 'vdb'], ...['--subdriver', 'qcow2', '--persistent']]);
    await expectCli(0, [...vm.vm, 'consolidate-source']);
    await vm.expectLayers(0);
    await vm.domain.destroy();
    const pattern = ['-f', 'raw', '-c', `read -P 0x22 ${2 * MiB} ${MiB}`, vm.imageOf('vdb')];
    expect((await run('qemu-io', pattern)).stdout).not.toMatch(/failed/);
  });

  it('an overlay that was merged and not removed goes; one of which the image lacks something stays', async () => {
    const vm = await overlaidDomain(lab);
    const args = [...vm.vm, 'backup', '--level', 'copy', '--method', 'overlay', '--overlay-dir', vm.overlays];
    const died = { when: 'before', call: 'rm', matches: /vdb.*\.overlay$/, guards: 'die' } as const;
    const slow = [...args, '--target', vm.target, '--speed-limit', '1M'];
    await vm.writeAll(1, 0x31);
    await crashCli(died, slow);
    expect(await vm.chainOf('vdb')).toEqual([vm.imageOf('vdb')]);
    await vm.writeAll(3, 0x33);
    await expectCli(0, [...vm.vm, 'recover', '--target', vm.target]);
    await vm.expectLayers(0);

    await killedCopy(vm, 'die');
    await vm.writeAll(2, 0x32);
    for (const disk of OVERLAID) await flush(vm.domain, disk);
    const overlay = await topOf(vm, 'vdb');
    // Somebody takes the domain for what it was, and starts it so.
    await vm.domain.destroy();
    const { stdout: xml } = await lab.virsh(['dumpxml', '--inactive', vm.domain.uuid]);
    expect(xml).toContain('.overlay');
    const file = join(lab.dir, `${vm.domain.uuid}.xml`);
    await lab.virsh(['define', file]);
    await vm.domain.start();
    const { stderr } = await expectCli(0, [...vm.vm, 'recover', '--target', vm.target]);
    expect(stderr).toMatch(/holds what .*-vdb does not hold/);
    expect(await readdir(vm.overlays)).toContain(overlay.split('/').pop());
  });
});

describe('what a merge left that was killed before it removed the files', () => {
  const killed = { when: 'before', call: 'rm', matches: /\.overlay$/, guards: 'die' } as const;

  it('is told of as what it is where the guest has written since, and by no advice to attach it', async () => {
    const vm = await overlaidDomain(lab);
    await vm.writeAll(1, 0x35);
    await vm.track('auto');
    await vm.writeAll(2, 0x36);
    const overlay = await topOf(vm, 'vda');
    await crashCli(killed, [...vm.vm, 'consolidate-source']);
    expect(await topOf(vm, 'vda')).toBe(vm.imageOf('vda'));
    await write(vm.domain, 'vda', { offset: 2 * MiB, length: MiB, pattern: 0x37 });
    await flush(vm.domain, 'vda');
    const { stderr } = await expectCli(0, [...vm.vm, 'recover', '--target', vm.target]);
    expect(stderr).toContain(overlay);
    const { stdout } = await expectCli(0, [...vm.vm, 'doctor', '--target', vm.target]);
    expect(stdout).toContain(`${overlay} is above no disk, and ${vm.imageOf('vda')} is in use without it`);
    expect(stdout).not.toContain('attach-disk');
  });

  it('goes with the next run, also where overlays were merged that lay above one another', async () => {
    const vm = await overlaidDomain(lab);
    await vm.writeAll(1, 0x38);
    await vm.track('auto');
    const lower = await topOf(vm, 'vda');
    await vm.writeAll(2, 0x39);
    const running = await vm.slowly('--track', 'overlay', '--level', 'inc');
    running.kill('SIGKILL');
    await running.ended;
    await vm.writeAll(3, 0x3a);
    const upper = await topOf(vm, 'vda');
    expect(upper).not.toBe(lower);
    expect(await vm.chainOf('vda')).toEqual([upper, lower, vm.imageOf('vda')]);
    await crashCli(killed, [...vm.vm, 'consolidate-source']);
    expect(await vm.chainOf('vda')).toEqual([vm.imageOf('vda')]);
    expect([upper, lower].map(existsSync)).toEqual([true, true]);
    await expectCli(0, [...vm.vm, 'recover', '--target', vm.target]);
    expect([upper, lower].map(existsSync)).toEqual([false, false]);
    await expectCli(0, [...vm.vm, 'consolidate-source']);
    await vm.expectLayers(0);
    await expectPattern(vm.domain, 'vda', { offset: 3 * MiB, length: MiB, pattern: 0x3a });
  });
});

describe('a snapshot that lies in an overlay of ours', () => {
  it('is not lost by a merge: runs and consolidate-source refuse until it is gone', async () => {
    const vm = await overlaidDomain(lab);
    await vm.writeAll(1, 0x41);
    await vm.track('auto');
    await vm.writeAll(2, 0x42);
    await lab.virsh(['snapshot-create-as', vm.domain.uuid, 'theirs']);
    await vm.writeAll(2, 0x43);
    const args = [...vm.vm, 'backup', '--target', vm.target, '--method', 'overlay', '--track', 'overlay'];
    const run = await expectCli(13, [...args, '--overlay-dir', vm.overlays]);
    expect(run.stderr).toMatch(/vda: .*\.overlay holds a snapshot of the domain/);
    expect((await expectCli(13, [...vm.vm, 'consolidate-source'])).stderr).toMatch(/holds a snapshot of the domain/);
    await vm.expectLayers(1);
    await lab.virsh(['snapshot-revert', vm.domain.uuid, 'theirs']);
    for (const disk of OVERLAID) {
      await expectPattern(vm.domain, disk, { offset: 2 * MiB, length: MiB, pattern: 0x42 });
    }
    await lab.virsh(['snapshot-delete', vm.domain.uuid, 'theirs']);
    expect((await vm.track('inc')).point.level).toBe('inc');
    await vm.expectRestored();
  });

  it('is not lost when it was taken while the run copied, which then keeps its point', async () => {
    const vm = await overlaidDomain(lab);
    await vm.writeAll(1, 0x51);
    await vm.writeAll(2, 0x52);
    const args = [...vm.vm, 'backup', '--level', 'copy', '--target', vm.target, '--method', 'overlay'];
    const running = startRun([...args, '--overlay-dir', vm.overlays, '--speed-limit', '1M']);
    await expect.poll(() => topOf(vm, 'vdc'), { timeout: patient(60_000), interval: 50 }).toMatch(/\.overlay$/);
    await lab.virsh(['snapshot-create-as', vm.domain.uuid, 'theirs']);
    await vm.writeAll(2, 0x53);
    const { exitCode, stdout } = await running.ended;
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(/holds a snapshot of the domain/);
    await lab.virsh(['snapshot-revert', vm.domain.uuid, 'theirs']);
    for (const disk of OVERLAID) {
      await expectPattern(vm.domain, disk, { offset: 2 * MiB, length: MiB, pattern: 0x52 });
    }
    await lab.virsh(['snapshot-delete', vm.domain.uuid, 'theirs']);
    await vm.overlay('copy');
    await vm.expectLayers(0);
  });
});

describe('a commit', () => {
  it('keeps to --speed-limit, and hurries when the run is told to end', async () => {
    const vm = await overlaidDomain(lab);
    const args = [...vm.vm, 'backup', '--level', 'copy', '--target', vm.target, '--method', 'overlay'];
    await vm.writeAll(1, 0x61);
    const running = startRun([...args, '--overlay-dir', vm.overlays, '--speed-limit', '256K']);
    await expect.poll(() => topOf(vm, 'vdc'), { timeout: patient(60_000), interval: 50 }).toMatch(/\.overlay$/);
    for (let at = 2; at < 26; at += 1) await write(vm.domain, 'vda', { offset: at * MiB, length: MiB, pattern: at });
    const job = async (): Promise<string> =>
      (await lab.virsh(['blockjob', vm.domain.uuid, 'vda', '--info', '--raw', '--bytes'])).stdout;
    await expect.poll(job, { timeout: patient(120_000), interval: 50 }).toMatch(/Active Block Commit/);
    expect(await job()).toMatch(/bandwidth=262144/);
    running.kill('SIGTERM');
    await running.ended;
    await vm.expectLayers(0);
    for (const at of [2, 25]) await expectPattern(vm.domain, 'vda', { offset: at * MiB, length: MiB, pattern: at });
  });

  it('into an image whose file system is full leaves the guest on the overlay, and the next run goes on', async () => {
    const file = join(small(), 'full-vda');
    await createImage({ file, format: 'raw', size: 64 * MiB });
    const { domain, ...vm } = await domainScenario(lab, {
      name: 'full-base',
      disks: [{ target: 'vda', file, format: 'raw' }],
    });
    const overlays = join(lab.dir, 'overlays-full-base');
    await mkdir(overlays);
    const tracked = ['--method', 'overlay', '--track', 'overlay', '--overlay-dir', overlays];
    await write(domain, 'vda', { offset: 0, length: MiB, pattern: 0x71 });
    await vm.backup('auto', ...tracked);
    for (let at = 1; at < 60; at += 1) await write(domain, 'vda', { offset: at * MiB, length: MiB, pattern: at });
    const { point, warnings } = await vm.backup('inc', ...tracked);
    expect(point.level).toBe('inc');
    expect(JSON.stringify(warnings)).toMatch(/overlay-left.*could not be merged/);
    await write(domain, 'vda', { offset: 30 * MiB, length: MiB, pattern: 0x72 });
    expect(await readdir(overlays)).toHaveLength(2);
    expect((await vm.backup('inc', ...tracked)).point.level).toBe('inc');
    await run('mount', ['-o', 'remount,size=96m', small()]);
    await lab.inside('mount', ['-o', 'remount,size=96m', small()]);
    expect((await vm.backup('inc', ...tracked)).point).toMatchObject({ level: 'inc', number: 3 });
    expect(await readdir(overlays)).toHaveLength(1);
    await expectCli(0, [...vm.vm, 'consolidate-source']);
    await flush(domain, 'vda');
    const output = join(lab.dir, 'restored-full-base');
    await expectCli(0, ['restore', '--target', vm.target, '--output', output]);
    await run('qemu-img', ['compare', '-U', '-F', 'raw', join(output, 'vda.qcow2'), file]);
    await domain.destroy();
  });
});
