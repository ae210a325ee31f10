import { textsOf } from '../support/scenario.js';
import { createHash } from 'node:crypto';
import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { expectCli } from '../support/cli.js';
import { crashCli, type CrashPoint } from '../support/crash-point.js';
import { type DomainScenario, domainScenario, domainWithFull, writeBothDisks } from '../support/domain-scenario.js';
import { onceBefore } from '../support/first-in-path.js';
import { compareImages } from '../support/lab/compare.js';
import { createImage } from '../support/lab/disk-images.js';
import { write } from '../support/lab/guest-writes.js';
import type { DomainDisk } from '../support/lab/libvirt-domain.js';
import { run } from '../support/lab/programs.js';
import { patient } from '../support/patience.js';
import { useLibvirt } from '../support/use-libvirt.js';

const MiB = 1024 * 1024;

const lab = useLibvirt();

function sums({ fileOf }: DomainScenario): Promise<string[]> {
  return Promise.all(
    ['vda', 'vdb'].map(async (disk) =>
      createHash('sha256')
        .update(await readFile(fileOf(disk)))
        .digest('hex'),
    ),
  );
}

describe('a domain that is off', () => {
  it('goes into its chain by its bitmaps, only read, and goes on incrementally when it runs again', async () => {
    const scenario = await domainWithFull(lab);
    await writeBothDisks(scenario, 20, 0x51);
    await scenario.domain.destroy();
    const before = await sums(scenario);
    const checkpoints = await scenario.checkpoints();
    const { point } = await scenario.backup('inc', '--verify');
    expect(point).toMatchObject({ number: 1, consistency: 'offline', definition: { missing: [] } });
    expect(point.disks.map(({ disk, level, changed }) => [disk, level, changed])).toEqual([
      ['vda', 'inc', MiB],
      ['vdb', 'inc', MiB],
    ]);
    await scenario.expectChainEqualsDisks();
    expect(await sums(scenario)).toEqual(before);
    expect(await scenario.checkpoints()).toEqual(checkpoints);
    await scenario.domain.start();
    await writeBothDisks(scenario, 22, 0x52);
    expect((await scenario.backup('inc')).point).toMatchObject({ number: 2, level: 'inc', chain: point.chain });
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
  });

  it('is compared where its QEMU was killed, and where an external snapshot parts its bitmap', async () => {
    const killed = await domainWithFull(lab);
    await killed.domain.destroy();
    await killed.domain.start();
    await killed.domain.kill();
    const { point } = await killed.backup('auto');
    expect(point.disks[0]).toMatchObject({
      level: 'inc',
      compared: true,
      reason: expect.stringContaining('QEMU was killed') as string,
    });
    await killed.expectChainEqualsDisks();

    const snapped = await domainWithFull(lab);
    await writeBothDisks(snapped, 20, 0x51);
    await lab.virsh(['snapshot-create-as', snapped.domain.uuid, 's1', '--disk-only']);
    await writeBothDisks(snapped, 22, 0x52);
    await snapped.domain.destroy();
    const { point: after } = await snapped.backup('auto');
    expect(after.disks[0]).toMatchObject({ compared: true, reason: expect.stringContaining('layers') as string });
    const output = join(lab.dir, 'snapped');
    await expectCli(0, ['restore', '--target', snapped.target, '--output', output]);
    for (const disk of ['vda', 'vdb']) {
      const top = snapped.fileOf(disk).replace(/qcow2$/, 's1');
      await run('qemu-img', ['compare', join(output, `${disk}.qcow2`), top]);
    }
  });

  it('whose disks changed their names since the last point is restored as it is, to the last name', async () => {
    const scenario = await domainWithFull(lab);
    const { domain } = scenario;
    await writeBothDisks(scenario, 30, 0x51);
    await write(domain, 'vdb', { offset: 0, length: MiB, pattern: 0x52 });
    await domain.destroy();
    const swapped = domain.xml.replace(/dev='vd([ab])'/g, (_, letter) => `dev='vd${letter === 'a' ? 'b' : 'a'}'`);
    const file = join(lab.dir, 'swapped.xml');
    await writeFile(file, swapped);
    await lab.virsh(['define', file]);
    expect((await scenario.backup('auto')).point.consistency).toBe('offline');
    const output = join(lab.dir, 'swapped');
    const restore = ['restore', '--target', scenario.target, '--output', output, '--define', '--name', 'swapped'];
    await expectCli(0, ['--connect', lab.uri, ...restore]);
    const { stdout } = await lab.virsh(['domblklist', 'swapped']);
    for (const [target, was] of [
      ['vda', 'vdb'],
      ['vdb', 'vda'],
    ] as const) {
      const image = new RegExp(`^ *${target} +(\\S+)$`, 'm').exec(stdout)?.[1] ?? 'none';
      await compareImages(image, scenario.fileOf(was));
    }
  });

  it('and has a medium or disk that cannot be read: that disk alone stops it, unless it is left out', async () => {
    const file = (name: string): string => join(lab.dir, 'images', name);
    for (const name of ['odd-off-a', 'odd-off-b']) {
      await createImage({ file: file(name), format: 'qcow2', size: 16 * MiB });
    }
    await writeFile(file('odd-off.iso'), 'medium');
    const disks: DomainDisk[] = [
      { target: 'vda', file: file('odd-off-a') },
      { target: 'vdb', file: file('odd-off-b') },
    ];
    const devices = `<disk type='file' device='cdrom'><source file='${file('odd-off.iso')}' startupPolicy='optional'/><target dev='hda'/></disk>`;
    const { domain, vm, target } = await domainScenario(lab, { disks, devices });
    await domain.destroy();
    await rm(file('odd-off.iso'));
    const auto = [...vm, 'backup', '--level', 'auto', '--target', target];
    await expectCli(0, auto);
    await expectCli(0, [...vm, 'doctor', '--target', target]);
    await rename(file('odd-off-b'), file('odd-off-b.away'));
    expect((await expectCli(13, auto)).stderr).toMatch(/the image of vdb cannot be read: .*\n.*--exclude vdb/);
    await expectCli(0, [...auto, '--exclude', 'vdb']);
    await rename(file('odd-off-b.away'), file('odd-off-b'));
  });

  it('and has a disk on another host: is refused, for a point without it would say nothing', async () => {
    const { domain, vm, target } = await domainScenario(lab);
    await domain.destroy();
    const disk = `<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='nbd'><host name='127.0.0.1' port='9'/></source><target dev='vdc' bus='virtio'/></disk>`;
    const file = join(lab.dir, 'network.xml');
    await writeFile(file, domain.xml.replace('</devices>', `${disk}</devices>`));
    await lab.virsh(['define', file]);
    const auto = [...vm, 'backup', '--level', 'auto', '--target', target];
    expect((await expectCli(13, auto)).stderr).toMatch(
      /the image of vdc cannot be read.*\n.*--start-paused.*--exclude vdc/,
    );
    await expectCli(0, [...auto, '--exclude', 'vdc']);
  });

  it('with its memory saved is marked crash, and is not started for a backup', async () => {
    const scenario = await domainScenario(lab);
    await lab.virsh(['managedsave', scenario.domain.uuid]);
    const { point, warnings } = await scenario.backup('auto');
    expect(point.consistency).toBe('crash');
    expect(textsOf(warnings).join()).toContain('managedsave');
    const args = [...scenario.vm, 'backup', '--level', 'auto', '--start-paused', '--target', scenario.target];
    expect((await expectCli(13, args)).stderr).toContain('saved');
    expect((await lab.virsh(['dominfo', scenario.domain.uuid])).stdout).toMatch(/Managed save:\s+yes/);
    await scenario.expectNothingLeft(0);
  });
});

describe('--start-paused', () => {
  it('starts the domain for its checkpoint and ends it again; what follows is incremental', async () => {
    const scenario = await domainScenario(lab);
    const { domain } = scenario;
    await domain.destroy();
    // There is nothing to freeze, and the guest has not run: as good as off.
    const { point, warnings } = await scenario.backup('full', '--start-paused', '--quiesce=require');
    expect({ point, warnings }).toMatchObject({ point: { level: 'full', consistency: 'offline' }, warnings: [] });
    expect(await domain.state()).toBe('shut off');
    expect((await scenario.backup('inc')).point).toMatchObject({ number: 1, level: 'inc', consistency: 'offline' });
    // Refused before it was begun: the domain is off again each time.
    const refused = [...scenario.vm, 'backup', '--level', 'inc', '--start-paused', '--target', join(lab.dir, 'new')];
    await expectCli(13, refused);
    expect(await domain.state()).toBe('shut off');
    const usage = [...scenario.vm, 'backup', '--level', 'inc', '--start-paused', '--fleece', 'never'];
    await expectCli(2, [...usage, '--target', scenario.target]);
    expect(await domain.state()).toBe('shut off');
    await domain.start();
    await writeBothDisks(scenario, 22, 0x52);
    expect((await scenario.backup('inc')).point.level).toBe('inc');
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
  });

  it('is marked crash, or refused with --quiesce=require, where somebody let the guest run before the checkpoint', async () => {
    const scenario = await domainScenario(lab);
    const { domain, vm, target } = scenario;
    const letRun = async (): Promise<void> => {
      await domain.destroy();
      const ran = `until virsh --connect '${lab.uri}' domstats --raw --vcpu ${domain.uuid} | grep -Eq 'vcpu.0.time=[0-9]{9,}'`;
      const resume = `virsh --connect '${lab.uri}' resume ${domain.uuid}; ${ran}; do sleep 0.1; done`;
      await onceBefore('virsh', 'backup-begin', resume);
    };
    await letRun();
    const full = [...vm, 'backup', '--level', 'full', '--start-paused', '--target', target];
    const { stderr } = await expectCli(1, [...full, '--quiesce=require']);
    expect(stderr).toMatch(/--quiesce=require: somebody let the domain go on.*\n.*Nothing was kept/);
    await letRun();
    const { point, warnings } = await scenario.backup('full', '--start-paused', '--quiesce');
    expect(point.consistency).toBe('crash');
    expect(textsOf(warnings).join()).toContain('the point is marked crash');
    expect(await domain.state()).toBe('running');
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(1);
  });

  it('of a run that is killed is ended by the next one, unless somebody let it go on', async () => {
    const scenario = await domainScenario(lab);
    const { domain, vm, target } = scenario;
    await domain.destroy();
    const steps: readonly CrashPoint[] = [
      { when: 'after', call: 'spawn', matches: / backup-begin/ },
      { when: 'before', call: 'spawn', matches: / destroy .*--graceful/ },
    ];
    for (const step of steps) {
      const args = [...vm, 'backup', '--level', 'full', '--start-paused', '--target', target];
      await crashCli(step, args);
      expect(await domain.state()).toBe('paused');
      expect((await scenario.backup('auto')).point.consistency).toBe('offline');
      expect(await domain.state()).toBe('shut off');
    }
    await scenario.expectNothingLeft(1);
    const again = [...vm, 'backup', '--level', 'full', '--start-paused', '--target', target];
    await crashCli({ when: 'after', call: 'spawn', matches: / start .*--paused/ }, again);
    await lab.virsh(['resume', domain.uuid]);
    await write(domain, 'vda', { offset: 0, length: MiB, pattern: 0x33 });
    // On a busy machine a CPU may take long to do anything.
    await expect
      .poll(async () => (await lab.virsh(['domstats', '--raw', '--vcpu', domain.uuid])).stdout, {
        timeout: patient(30_000),
      })
      .toMatch(/vcpu\.0\.time=\d{9,}/);
    await lab.virsh(['suspend', domain.uuid]);
    const { warnings } = await scenario.backup('auto');
    expect(textsOf(warnings).join()).toContain('let go on by somebody');
    expect(await domain.state()).toBe('paused');
    await scenario.expectNothingLeft(2);
  });
});
