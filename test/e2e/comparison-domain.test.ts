import { randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { expectCli } from '../support/cli.js';
import { clustersIn, levelsOf, rot } from '../support/comparison.js';
import { type DomainScenario, domainScenario } from '../support/domain-scenario.js';
import { compareImages } from '../support/lab/compare.js';
import { createImage } from '../support/lab/disk-images.js';
import { flush, write, writeFile as guestWritesFile, writeZeroes } from '../support/lab/guest-writes.js';
import { run } from '../support/lab/programs.js';
import { type BackupAnswer, textsOf } from '../support/scenario.js';
import { useLibvirt } from '../support/use-libvirt.js';

/** Disks of a domain that no bitmap tells of: a raw one, and a qcow2 whose QEMU was killed. */
const MiB = 1024 * 1024;
const CLUSTER = 64 * 1024;
const SIZE = 48 * MiB;

const lab = useLibvirt();
let scenario: DomainScenario;
let count = 0;

beforeEach(async () => {
  count += 1;
  const name = `compared-${count}`;
  const disks = [
    { target: 'vda', file: join(lab.dir, 'images', `${name}-vda.raw`), format: 'raw' as const },
    { target: 'vdb', file: join(lab.dir, 'images', `${name}-vdb.qcow2`), format: 'qcow2' as const },
  ];
  for (const { file, format } of disks) await createImage({ file, format, size: SIZE });
  scenario = await domainScenario(lab, { name, disks });
  const content = join(lab.dir, `${name}.content`);
  await writeFile(content, randomBytes(2 * MiB));
  for (const disk of ['vda', 'vdb']) {
    await guestWritesFile(scenario.domain, disk, { offset: 0, length: 20 * MiB, file: content });
  }
});

const fileOf = (disk: string, { point }: BackupAnswer): string =>
  join(scenario.target, disk, point.disks.find((each) => each.disk === disk)?.file ?? '');

async function expectRestored(...more: string[]): Promise<void> {
  const output = join(lab.dir, `restored-${Math.random().toString(36).slice(2)}`);
  await expectCli(0, ['restore', '--target', scenario.target, '--output', output, ...more]);
  for (const disk of ['vda', 'vdb']) {
    await flush(scenario.domain, disk);
    await compareImages(join(output, `${disk}.qcow2`), scenario.fileOf(disk));
  }
}

describe('a disk of a domain that no bitmap tells of', () => {
  it('is raw: what differs from its newest file is stored, and nothing else', async () => {
    expect(levelsOf(await scenario.backup('auto'))).toEqual(['vda full', 'vdb full']);
    await write(scenario.domain, 'vda', { offset: 5 * MiB + 100, length: 200, pattern: 0x21 });
    await writeZeroes(scenario.domain, 'vda', { offset: 8 * MiB, length: 4 * CLUSTER });
    await write(scenario.domain, 'vda', { offset: 30 * MiB, length: CLUSTER, pattern: 0x22 });
    // The same as was there.
    await guestWritesFile(scenario.domain, 'vda', {
      offset: 0,
      length: 2 * MiB,
      file: join(lab.dir, `compared-${count}.content`),
    });
    await write(scenario.domain, 'vdb', { offset: MiB, length: MiB, pattern: 0x23 });
    const second = await scenario.backup('auto', '--verify');
    expect(levelsOf(second)).toEqual(['vda inc by comparison', 'vdb inc']);
    expect(await clustersIn(fileOf('vda', second))).toEqual({ data: 2, zero: 4 });
    expect(second.point.disks[0]).toMatchObject({ changed: 6 * CLUSTER });
    await expectRestored();
    // It has no bitmap itself, and is a parent all the same.
    await write(scenario.domain, 'vda', { offset: 9 * MiB, length: CLUSTER, pattern: 0x24 });
    const third = await scenario.backup('auto');
    expect(levelsOf(third)).toEqual(['vda inc by comparison', 'vdb inc']);
    expect(third.point.disks[0]?.parent).toBe(second.point.disks[0]?.file);
    expect(await clustersIn(fileOf('vda', third))).toEqual({ data: 1, zero: 0 });
    await expectRestored();
    const { stdout } = await expectCli(0, ['list', '--target', scenario.target]);
    expect(stdout).toContain('vda (by comparison) vdb');
    const refused = await expectCli(13, [...scenario.vm, 'backup', '--level', 'inc', '--target', scenario.target]);
    expect(refused.stderr).toContain('vda: libvirt has no checkpoints for raw disks');
    expect(levelsOf(await scenario.backup('auto', '--full-instead'))).toEqual(['vda full', 'vdb inc']);
    await scenario.expectNothingLeft(2);
  });

  it('is a qcow2 whose QEMU was killed: it goes on from there with a bitmap', async () => {
    await scenario.backup('auto');
    // What QEMU still holds is lost with it.
    for (const disk of ['vda', 'vdb']) await flush(scenario.domain, disk);
    await scenario.domain.kill();
    await scenario.domain.start();
    await write(scenario.domain, 'vdb', { offset: 3 * MiB, length: 2 * CLUSTER, pattern: 0x31 });
    const second = await scenario.backup('auto', '--verify');
    expect(levelsOf(second)).toEqual(['vda inc by comparison', 'vdb inc by comparison']);
    expect(await clustersIn(fileOf('vdb', second))).toEqual({ data: 2, zero: 0 });
    await expectRestored();
    await write(scenario.domain, 'vdb', { offset: 4 * MiB, length: CLUSTER, pattern: 0x32 });
    const third = await scenario.backup('auto');
    expect(levelsOf(third)).toEqual(['vda inc by comparison', 'vdb inc']);
    expect(third.point.disks[1]).toMatchObject({ changed: CLUSTER, parent: second.point.disks[1]?.file });
    await expectRestored();
    // That of the FULL was of no use any more.
    await scenario.expectNothingLeft(1);
  });

  it('heals what has rotted in its newest files unnoticed', async () => {
    const first = await scenario.backup('auto', '--include', 'vda');
    const full = fileOf('vda', first);
    const before = join(lab.dir, 'before.raw');
    await run('qemu-img', ['convert', '-O', 'raw', full, before]);
    await rot(full, 13 * MiB + 5);
    await write(scenario.domain, 'vda', { offset: 40 * MiB, length: CLUSTER, pattern: 0x41 });
    const second = await scenario.backup('auto', '--include', 'vda');
    expect(levelsOf(second)).toEqual(['vda inc by comparison']);
    expect(textsOf(second.warnings)).toContainEqual(
      expect.stringMatching(/from byte 12582912 to 16777215.*earlier points are damaged/),
    );
    // All of the piece, and what has changed.
    expect((await clustersIn(fileOf('vda', second))).data).toBe((4 * MiB) / CLUSTER + 1);
    const output = join(lab.dir, `healed-${count}`);
    const restore = ['restore', '--target', scenario.target, '--output'];
    await expectCli(0, [...restore, output]);
    await flush(scenario.domain, 'vda');
    await compareImages(join(output, 'vda.qcow2'), scenario.fileOf('vda'));
    await expectCli(4, [...restore, join(lab.dir, `rotten-${count}`), '--point', '0']);
    // The next builds on it, and has nothing to heal.
    const third = await scenario.backup('auto', '--include', 'vda');
    expect(levelsOf(third)).toEqual(['vda inc by comparison']);
    expect(await clustersIn(fileOf('vda', third))).toEqual({ data: 0, zero: 0 });
    expect(textsOf(third.warnings).join()).not.toContain('rotten');
  });

  it('takes a FULL where the tables of its parent have rotted, or the parent is known to be damaged', async () => {
    const first = await scenario.backup('auto', '--include', 'vda');
    await rot(fileOf('vda', first), 2 * CLUSTER + 1);
    const second = await scenario.backup('auto', '--include', 'vda');
    expect(levelsOf(second)).toEqual(['vda full']);
    expect(second.point.disks[0]?.reason).toContain('from byte 0 to 4194303');
    await rot(fileOf('vda', second), 13 * MiB);
    await expectCli(4, ['verify', '--target', scenario.target, '--read-data']);
    expect(levelsOf(await scenario.backup('auto', '--include', 'vda'))).toEqual(['vda full']);
  });

  it('takes a FULL where its parent has no digests', async () => {
    await scenario.backup('auto', '--include', 'vda', '--no-digest');
    const second = await scenario.backup('auto', '--include', 'vda');
    expect(levelsOf(second)).toEqual(['vda full']);
    expect(second.point.disks[0]?.reason).toContain('has no digests of its pieces');
  });
});
