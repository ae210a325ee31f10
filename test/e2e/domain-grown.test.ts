import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { levelsOf } from '../support/comparison.js';
import { expectCli } from '../support/cli.js';
import { type DomainScenario, domainScenario, domainWithFull } from '../support/domain-scenario.js';
import { compareImages } from '../support/lab/compare.js';
import { createImage } from '../support/lab/disk-images.js';
import { flush, write } from '../support/lab/guest-writes.js';
import type { DomainDisk } from '../support/lab/libvirt-domain.js';
import { run } from '../support/lab/programs.js';
import { useLibvirt } from '../support/use-libvirt.js';

/** A disk that was grown above an external snapshot: libvirt measures no checkpoint that has it, and the others go on. */
const MiB = 1024 * 1024;
const GROWN = 80 * MiB;
const PLANNED = /next backup is (\w+): (.*)/;

const lab = useLibvirt();

let count = 0;

/** What a test asks of a domain whose disks change their images. */
function grown(scenario: DomainScenario, targets: readonly string[] = ['vda', 'vdb']) {
  const { domain, vm, target } = scenario;
  const images = new Map(targets.map((disk) => [disk, scenario.fileOf(disk)]));
  const expectRestored = async (): Promise<void> => {
    const output = join(lab.dir, `restored-${(count += 1)}`);
    await expectCli(0, ['restore', '--target', target, '--output', output]);
    for (const [disk, image] of images) {
      if ((await domain.state()) !== 'shut off') await flush(domain, disk);
      await compareImages(join(output, `${disk}.qcow2`), image);
    }
  };
  return {
    /** Fails unless the newest point has the bytes of the disks. */
    expectRestored,
    snapshot: async (...disks: readonly string[]): Promise<void> => {
      const tag = `s${(count += 1)}`;
      const specs = targets.flatMap((disk) => {
        const overlay = join(lab.dir, 'images', `${domain.name}-${disk}.${tag}`);
        if (disks.includes(disk)) images.set(disk, overlay);
        return ['--diskspec', disks.includes(disk) ? `${disk},file=${overlay}` : `${disk},snapshot=no`];
      });
      await lab.virsh(['snapshot-create-as', domain.uuid, tag, '--disk-only', '--no-metadata', ...specs]);
    },
    grow: async (...disks: readonly string[]): Promise<void> => {
      for (const disk of disks) await lab.virsh(['blockresize', domain.uuid, disk, `${GROWN}B`]);
    },
    commit: async (...disks: readonly string[]): Promise<void> => {
      for (const disk of disks) {
        await lab.virsh(['blockcommit', domain.uuid, disk, '--active', '--pivot', '--wait']);
        images.set(disk, scenario.fileOf(disk));
      }
    },
    change: async (offset: number, ...disks: readonly string[]): Promise<void> => {
      for (const disk of disks.length > 0 ? disks : targets) {
        await write(domain, disk, { offset: offset * MiB, length: MiB, pattern: 0x20 + offset });
      }
    },
    /** What doctor says of the next backup, which that then is; the restored point has the bytes of the disks. */
    backup: async (expected: readonly string[], ...more: readonly string[]): Promise<readonly string[]> => {
      const doctor = await expectCli(0, [...vm, '--json', 'doctor', '--target', target]);
      const { findings } = doctor.json<{ findings: { subject: string; what: string }[] }>();
      const foretold = findings.flatMap(({ subject, what }) => {
        const [, level, reason] = PLANNED.exec(what) ?? [];
        return level === undefined ? [] : [{ disk: subject.replace(/^disk /, ''), level: level.toLowerCase(), reason }];
      });
      const answer = await scenario.backup('auto', ...more);
      expect(levelsOf(answer)).toEqual(expected);
      expect(foretold).toEqual(answer.point.disks.map(({ disk, level, reason }) => ({ disk, level, reason })));
      await expectRestored();
      return answer.point.disks.map(({ reason }) => reason);
    },
  };
}

/** Of all disks without a snapshot, of 64 MiB. */
async function threeDisks(name: string): Promise<readonly DomainDisk[]> {
  const disks = ['vda', 'vdb', 'vdc'].map((target) => ({ target, file: join(lab.dir, 'images', `${name}-${target}`) }));
  for (const { file } of disks) await createImage({ file, format: 'qcow2', size: 64 * MiB });
  return disks;
}

describe('a disk of a domain that was grown above an external snapshot', () => {
  it.each(['pull', 'push'])('is compared, once, and the others go on (%s)', async (method) => {
    const scenario = await domainWithFull(lab);
    const its = grown(scenario);
    const how = ['--method', method];
    await its.change(20);
    await its.backup(['vda inc', 'vdb inc'], ...how);
    await its.change(22);
    await its.snapshot('vda', 'vdb');
    await its.change(24);
    await its.grow('vda');
    await its.change(26);
    await its.change(70, 'vda');
    await expectCli(0, [...scenario.vm, 'info']);
    const [reason] = await its.backup(['vda inc by comparison', 'vdb inc'], ...how);
    // Not that QEMU was killed: what libvirt says.
    expect(reason).toMatch(/cannot add up what its layers .* grown above an external snapshot .*different sizes/s);
    await scenario.expectNothingLeft(2);
    for (const offset of [28, 30]) {
      await its.change(offset);
      await its.change(offset + 44, 'vda');
      await its.backup(['vda inc', 'vdb inc'], ...how);
    }
    await its.change(32);
    await its.commit('vda', 'vdb');
    await its.change(34);
    await its.change(78, 'vda');
    await its.backup(['vda inc', 'vdb inc'], ...how);
    await its.change(36);
    await scenario.backup('diff', ...how);
    await its.change(38);
    await its.backup(['vda inc', 'vdb inc'], ...how);
    expect(levelsOf(await scenario.backup('full', ...how))).toEqual(['vda full', 'vdb full']);
    await scenario.expectNothingLeft(1);
    await scenario.domain.destroy();
    await scenario.expectNoStrayBitmaps();
  });

  it('and committed before the next backup: goes on as far as its bytes are right', async () => {
    const scenario = await domainWithFull(lab);
    const its = grown(scenario);
    await its.snapshot('vda', 'vdb');
    await its.change(24);
    await its.grow('vda');
    await its.change(26);
    await its.change(70, 'vda');
    await its.commit('vda', 'vdb');
    await its.change(28);
    await its.change(72, 'vda');
    await its.backup(['vda inc', 'vdb inc']);
    await scenario.expectNothingLeft(2);
  });

  it('two of three; and a snapshot without growth, above an image of another size', async () => {
    const name = 'two-of-three';
    const base = join(lab.dir, 'images', 'template');
    const [vda, vdb, { file }] = (await threeDisks(name)) as [DomainDisk, DomainDisk, { file: string }];
    await createImage({ file: base, format: 'qcow2', size: 8 * MiB });
    const backing = { file: base, format: 'qcow2' as const };
    await createImage({ file, format: 'qcow2', size: 64 * MiB, backing });
    const scenario = await domainScenario(lab, { name, disks: [vda, vdb, { target: 'vdc', file }] });
    const its = grown(scenario, ['vda', 'vdb', 'vdc']);
    await its.change(1);
    await scenario.backup('auto');
    await its.change(2);
    await its.snapshot('vda', 'vdb', 'vdc');
    await its.grow('vda', 'vdb');
    await its.change(3);
    await its.change(66, 'vda', 'vdb');
    await its.backup(['vda inc by comparison', 'vdb inc by comparison', 'vdc inc']);
    await its.change(4);
    await its.backup(['vda inc', 'vdb inc', 'vdc inc']);
    // Of the newest point, and of the FULL of each disk, of which there are two.
    await scenario.expectNothingLeft(3);
  });

  it('grown without a snapshot: goes on', async () => {
    const its = grown(await domainWithFull(lab));
    await its.change(20);
    await its.grow('vda');
    await its.change(70, 'vda');
    await its.backup(['vda inc', 'vdb inc']);
  });

  it('all of them: each is compared', async () => {
    const its = grown(await domainWithFull(lab));
    await its.snapshot('vda', 'vdb');
    await its.grow('vda', 'vdb');
    await its.change(70);
    await its.backup(['vda inc by comparison', 'vdb inc by comparison']);
  });

  it('and its QEMU killed: all are compared', async () => {
    const scenario = await domainWithFull(lab);
    const its = grown(scenario);
    await its.snapshot('vda', 'vdb');
    await its.grow('vda');
    await its.change(22);
    await scenario.domain.kill();
    await scenario.domain.start();
    await its.change(24);
    await its.backup(['vda inc by comparison', 'vdb inc by comparison']);
    await scenario.expectNothingLeft(1);
  });

  it('beside a disk whose bitmap is gone: both are compared, and nothing of the old bitmaps stays', async () => {
    const scenario = await domainWithFull(lab);
    const its = grown(scenario);
    await its.snapshot('vda');
    await its.grow('vda');
    await scenario.domain.destroy();
    const [bitmap = ''] = await scenario.checkpoints();
    await run('qemu-img', ['bitmap', '--remove', scenario.fileOf('vdb'), bitmap]);
    await scenario.domain.start();
    await its.change(22);
    await its.backup(['vda inc by comparison', 'vdb inc by comparison']);
    await scenario.expectNothingLeft(1);
    await scenario.domain.destroy();
    await scenario.expectNoStrayBitmaps();
  });

  it('and started for its backup: is compared, and the other goes on', async () => {
    const scenario = await domainWithFull(lab);
    const its = grown(scenario);
    await its.snapshot('vda', 'vdb');
    await its.grow('vda');
    await its.change(22);
    await scenario.domain.destroy();
    expect(levelsOf(await scenario.backup('auto', '--start-paused'))).toEqual(['vda inc by comparison', 'vdb inc']);
    await its.expectRestored();
    expect(await scenario.domain.state()).toBe('shut off');
  });

  it('while the domain is off: is compared there, and when it runs again', async () => {
    const scenario = await domainWithFull(lab);
    const its = grown(scenario);
    await its.snapshot('vda');
    await its.change(22);
    await its.grow('vda');
    await its.change(70, 'vda');
    await scenario.domain.destroy();
    const [reason] = await its.backup(['vda inc by comparison', 'vdb inc']);
    expect(reason).toMatch(/several layers/);
    await scenario.domain.start();
    await its.change(24);
    await its.backup(['vda inc by comparison', 'vdb inc']);
    await its.change(26);
    await its.backup(['vda inc', 'vdb inc']);
    await scenario.expectNothingLeft(3);
  });
});
