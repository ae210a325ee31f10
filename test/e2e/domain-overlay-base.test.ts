import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { expectCli } from '../support/cli.js';
import { flush } from '../support/lab/guest-writes.js';
import { run } from '../support/lab/programs.js';
import { type OverlaidDomain, overlaidDomain, OVERLAID } from '../support/overlaid-domain.js';
import type { BackupAnswer } from '../support/scenario.js';
import { useLibvirt, useSmallFolder } from '../support/use-libvirt.js';

/** An overlay holds what has changed only for as long as nothing but we writes to the image below it. */
const MiB = 1024 * 1024;
const small = useSmallFolder('72m');
const lab = useLibvirt();

async function tracked(): Promise<OverlaidDomain> {
  const vm = await overlaidDomain(lab);
  await vm.writeAll(1, 0x21);
  await vm.track('auto');
  await vm.writeAll(2, 0x22);
  await vm.track('inc');
  await vm.writeAll(3, 0x23);
  return vm;
}

const asked = (vm: OverlaidDomain, level: string): string[] => [
  ...[...vm.vm, 'backup', '--target', vm.target, '--level', level],
  ...['--method', 'overlay', '--track', 'overlay', '--overlay-dir', vm.overlays],
];

const reasonsOf = ({ point }: BackupAnswer): Record<string, string> =>
  Object.fromEntries(point.disks.map(({ disk, reason = '' }) => [disk, reason]));

async function writeTo(file: string, format: string, offset: number, pattern: number): Promise<void> {
  await run('qemu-io', ['-f', format, '-c', `write -P ${pattern} ${offset} ${MiB}`, file]);
}

describe('an image below an overlay that was written to by something else', () => {
  it('is noticed when the domain runs again: its disk is compared, the others go on, and so does it afterwards', async () => {
    const vm = await tracked();
    await vm.domain.destroy();
    await writeTo(vm.imageOf('vda'), 'qcow2', 10 * MiB, 0x31);
    await writeTo(vm.imageOf('vdb'), 'raw', 11 * MiB, 0x32);
    await vm.domain.start();
    await vm.writeAll(4, 0x24);
    const { stderr } = await expectCli(13, asked(vm, 'inc'));
    expect(stderr).toMatch(/vda: what the overlay above INC-\d+\.qcow2 holds is not all that has changed since/);
    expect(stderr).toContain(`${vm.imageOf('vdb')} is not as it was: something else wrote to it`);
    await vm.expectLayers(1);
    const answer = await vm.track('auto');
    const reasons = reasonsOf(answer);
    for (const disk of ['vda', 'vdb']) expect(reasons[disk]).toMatch(/is not as it was.*compared with INC-/);
    // Nothing tells of a device.
    expect(reasons['vdc']).toMatch(/^changes since INC-/);
    await vm.expectLayers(1);
    await vm.expectRestored();
    await vm.writeAll(5, 0x25);
    for (const { changed } of (await vm.track('inc')).point.disks) expect(changed).toBe(MiB);
    await vm.expectRestored();
  });

  it('is noticed where somebody committed the overlay into it by hand, and left the empty overlay in its place', async () => {
    const vm = await tracked();
    await vm.domain.destroy();
    for (const disk of ['vda', 'vdb']) await run('qemu-img', ['commit', '-q', (await vm.chainOf(disk))[0] ?? '']);
    await vm.domain.start();
    await vm.writeAll(4, 0x24);
    const reasons = reasonsOf(await vm.track('auto'));
    for (const disk of ['vda', 'vdb']) expect(reasons[disk]).toMatch(/is not as it was.*compared with INC-/);
    await vm.expectLayers(1);
    await vm.expectRestored();
  });

  it('is noticed where an older copy of it was put in its place', async () => {
    const vm = await overlaidDomain(lab);
    await vm.writeAll(1, 0x41);
    await vm.domain.destroy();
    const older = join(lab.dir, `${vm.domain.name}-older`);
    await run('cp', ['--preserve=timestamps', vm.imageOf('vda'), older]);
    await vm.domain.start();
    await vm.track('auto');
    await vm.writeAll(2, 0x42);
    await vm.track('inc');
    await vm.writeAll(3, 0x43);
    await vm.domain.destroy();
    await run('cp', ['--preserve=timestamps', older, vm.imageOf('vda')]);
    await vm.domain.start();
    expect(reasonsOf(await vm.track('auto'))['vda']).toMatch(/is not as it was.*compared with INC-/);
    await vm.expectRestored();
  });

  it('is noticed by the runs into each target, once', async () => {
    const vm = await tracked();
    const other = `${vm.target}-other`;
    await vm.track('auto', '--target', other);
    await vm.writeAll(4, 0x51);
    await vm.domain.destroy();
    await writeTo(vm.imageOf('vdb'), 'raw', 12 * MiB, 0x52);
    await vm.domain.start();
    for (const target of [vm.target, other]) {
      expect(reasonsOf(await vm.track('auto', '--target', target))['vdb']).toMatch(/is not as it was.*compared with/);
      await vm.expectEqual(target);
    }
    await vm.writeAll(5, 0x53);
    for (const target of [vm.target, other]) {
      expect((await vm.track('inc', '--target', target)).point.level).toBe('inc');
      await vm.expectEqual(target);
    }
  });
});

describe('what is no harm', () => {
  it('is a copy of the image in its place, with its time, and another chain by checkpoints', async () => {
    const vm = await tracked();
    const pulls = `${vm.target}-pulls`;
    for (const round of [4, 5, 6]) {
      // Checkpoints that go take their bitmaps out of the images below, too.
      await vm.backup('auto', '--target', pulls);
      await vm.writeAll(round, 0x60 + round);
      expect((await vm.track('inc')).point.level).toBe('inc');
    }
    await vm.expectRestored();
    await vm.domain.destroy();
    const image = vm.imageOf('vdb');
    const away = join(lab.dir, `${vm.domain.name}-away`);
    await run('mv', [image, away]);
    await run('cp', ['--preserve=timestamps', away, image]);
    await vm.domain.start();
    await vm.writeAll(7, 0x67);
    expect((await vm.track('inc')).point.level).toBe('inc');
    await vm.expectRestored();
    await expectCli(0, [...vm.vm, 'consolidate-source']);
    await vm.expectLayers(0);
    for (const disk of OVERLAID) expect(await vm.chainOf(disk)).toEqual([vm.imageOf(disk)]);
    const { stdout } = await lab.virsh(['dumpxml', '--inactive', vm.domain.uuid]);
    expect(stdout).not.toContain('qmpbackup');
  });
});

describe('the folder of the overlays', () => {
  it('is warned of by doctor and by the run where what was written once more does not fit', async () => {
    const vm = await overlaidDomain(lab);
    const there = ['--overlay-dir', small(), '--reserve', '0'];
    const spaceOf = async (): Promise<string> => {
      const { stdout } = await expectCli(0, [...vm.vm, 'doctor', '--target', vm.target]);
      expect(stdout).toMatch(/^warning +overlays: .* in memory in .*: when the host restarts they are gone/m);
      return stdout.split('\n').find((line) => line.includes(`${small()} hold`)) ?? '';
    };
    await vm.writeAll(1, 0x71);
    expect((await vm.track('auto', ...there)).warnings.map(({ code }) => code)).toEqual(['overlay-in-memory']);
    expect(await spaceOf()).toMatch(/^info +overlays: .* since the last run/);
    for (let at = 2; at < 16; at += 1) await vm.writeAll(at, 0x70 + at);
    for (const disk of OVERLAID) await flush(vm.domain, disk);
    expect(await spaceOf()).toMatch(/^warning +overlays: .*stands still/);
    const { point, warnings } = await vm.track('inc', ...there);
    expect(point.level).toBe('inc');
    expect(warnings.map(({ code }) => code)).toEqual(['space-short', 'overlay-in-memory']);
    await vm.expectRestored();
    await expectCli(0, [...vm.vm, 'consolidate-source']);
  });
});
