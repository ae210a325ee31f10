import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { expectCli } from '../support/cli.js';
import { createImage } from '../support/lab/disk-images.js';
import { expectPattern, flush, writeZeroes } from '../support/lab/guest-writes.js';
import { run } from '../support/lab/programs.js';
import { type OverlaidDomain, overlaidDomain, OVERLAID } from '../support/overlaid-domain.js';
import { useLibvirt } from '../support/use-libvirt.js';

const MiB = 1024 * 1024;
const lab = useLibvirt();

async function tracked(): Promise<OverlaidDomain> {
  const vm = await overlaidDomain(lab);
  await vm.writeAll(1, 0x21);
  expect((await vm.track('auto')).point.level).toBe('full');
  return vm;
}

describe('backup --method overlay', () => {
  it('copies images of all kinds while the guest writes above them, and leaves the domain on its own images', async () => {
    const vm = await overlaidDomain(lab);
    await vm.writeAll(1, 0x11);
    const { point } = await vm.overlay('full');
    expect(point.level).toBe('full');
    await vm.expectLayers(0);
    await vm.expectRestored();
    await vm.writeAll(2, 0x12);
    const { point: copy } = await vm.overlay('copy', '--verify');
    expect(copy.level).toBe('copy');
    await vm.expectLayers(0);
    await vm.expectRestored(copy.id);
  });

  it('takes nothing from the checkpoints of pulls, which go on incrementally', async () => {
    const vm = await overlaidDomain(lab);
    await vm.writeAll(1, 0x13);
    await vm.backup('auto');
    await vm.writeAll(2, 0x14);
    await vm.overlay('copy');
    await vm.writeAll(3, 0x15);
    const { point } = await vm.backup('auto');
    expect(point.disks.find(({ disk }) => disk === 'vda')).toMatchObject({ level: 'inc' });
    await vm.expectRestored();
    expect(await vm.checkpoints()).not.toHaveLength(0);
  });

  it('refuses what would be lost or makes no sense, and changes nothing', async () => {
    const vm = await overlaidDomain(lab);
    const asked = (...more: string[]): string[] => [...vm.vm, 'backup', '--target', vm.target, ...more];
    const usage = await expectCli(2, asked('--method', 'overlay'));
    expect(usage.stderr).toMatch(/makes no increments by itself/);
    await expectCli(2, asked('--track', 'overlay'));
    await expectCli(2, asked('--method', 'overlay', '--track', 'overlay', '--level', 'copy'));
    // vdc is a device.
    const device = await expectCli(13, asked('--method', 'overlay', '--track', 'overlay'));
    expect(device.stderr).toMatch(/vdc is a device, and its overlay would lie in \/var\/tmp/);
    await lab.virsh(['undefine', vm.domain.uuid]);
    const { stderr } = await expectCli(13, asked('--method', 'overlay', '--level', 'copy'));
    expect(stderr).toMatch(/is transient: after its end it would be started with the images alone/);
    await writeFile(join(lab.dir, 'again.xml'), vm.domain.xml);
    await lab.virsh(['define', join(lab.dir, 'again.xml')]);
    const nowhere = await expectCli(1, asked('--method', 'overlay', '--level', 'copy', '--overlay-dir', '/nowhere'));
    expect(nowhere.stderr).toMatch(/\/nowhere/);
    await vm.expectLayers(0);
    await vm.domain.destroy();
    const off = await expectCli(13, asked('--method', 'overlay', '--track', 'overlay', '--overlay-dir', vm.overlays));
    expect(off.stderr).toMatch(/is off/);
  });
});

describe('backup --track overlay', () => {
  it('takes each overlay as the increment, and keeps one above each image', async () => {
    const vm = await tracked();
    await vm.expectLayers(1);
    await vm.expectRestored();
    for (const round of [1, 2, 3]) {
      await vm.writeAll(round + 1, 0x30 + round);
      for (const disk of OVERLAID) await writeZeroes(vm.domain, disk, { offset: round * MiB, length: MiB / 2 });
      const { point } = await vm.track('inc', '--verify');
      expect(point).toMatchObject({ level: 'inc', number: round });
      for (const { changed } of point.disks) expect(changed).toBe(1.5 * MiB);
      await vm.expectLayers(1);
      await vm.expectRestored();
    }
    // Nothing was written.
    for (const { changed } of (await vm.track('inc')).point.disks) expect(changed).toBe(0);
    await vm.expectRestored();
  });

  it('goes on incrementally when QEMU was killed, and when the domain was off', async () => {
    const vm = await tracked();
    await vm.writeAll(2, 0x41);
    for (const disk of OVERLAID) await flush(vm.domain, disk);
    await vm.domain.kill();
    await vm.domain.start();
    expect((await vm.track('inc')).point.level).toBe('inc');
    await vm.expectRestored();
    await vm.writeAll(3, 0x42);
    await vm.domain.destroy();
    // While it is off its disks are read as they lie, overlays and all.
    const { point } = await vm.backup('copy');
    await vm.expectRestored(point.id);
    await vm.domain.start();
    await vm.writeAll(4, 0x43);
    expect((await vm.track('inc')).point.level).toBe('inc');
    await vm.expectLayers(1);
    await vm.expectRestored();
  });

  it('is a chain of its own for each target', async () => {
    const vm = await tracked();
    const other = join(lab.dir, `${vm.target}-other`.split('/').pop() ?? '');
    await vm.writeAll(2, 0x51);
    expect((await vm.track('auto', '--target', other)).point.level).toBe('full');
    await vm.writeAll(3, 0x52);
    expect((await vm.track('inc')).point.level).toBe('inc');
    await vm.writeAll(4, 0x53);
    expect((await vm.track('inc', '--target', other)).point.level).toBe('inc');
    await vm.expectLayers(2);
    const output = join(lab.dir, `other-${Math.random().toString(36).slice(2)}`);
    await expectCli(0, ['restore', '--target', other, '--output', output]);
    const [top = ''] = await vm.chainOf('vdb');
    await run('qemu-img', ['compare', '-U', join(output, 'vdb.qcow2'), top]);
  });

  it('compares where its overlay is gone, or a bitmap has the record, and leaves no overlay too many', async () => {
    const vm = await tracked();
    await vm.writeAll(2, 0x61);
    for (const disk of OVERLAID) {
      await lab.virsh(['blockcommit', vm.domain.uuid, disk, '--active', '--shallow', '--pivot', '--wait']);
    }
    const { stderr } = await expectCli(13, [
      ...[...vm.vm, 'backup', '--target', vm.target, '--level', 'inc'],
      ...['--method', 'overlay', '--track', 'overlay', '--overlay-dir', vm.overlays],
    ]);
    expect(stderr).toMatch(/the overlay above FULL-\d+\.qcow2 is gone/);
    for (const { level, reason } of (await vm.track('auto')).point.disks) {
      expect(level).toBe('inc');
      expect(reason).toMatch(/is gone.*compared with FULL-/);
    }
    await vm.expectLayers(1);
    await vm.expectRestored();
    const pulled = await vm.backup('auto');
    expect(pulled.point.disks[0]?.reason).toMatch(/is recorded by an overlay|first backup|without/);
    await vm.expectRestored();
    // Above the raw disks the record of the overlay is still the newest one.
    expect(await vm.chainOf('vda')).toEqual([vm.imageOf('vda')]);
    expect(await vm.chainOf('vdb')).toHaveLength(2);
  });

  it('leaves out a disk that is being copied by somebody else, and goes on with it when that has ended', async () => {
    const vm = await tracked();
    await vm.writeAll(2, 0x91);
    const copy = join(lab.dir, `${vm.domain.name}-theirs`);
    await lab.virsh(['blockcopy', vm.domain.uuid, 'vdb', '--dest', copy, '--format', 'raw', '--transient-job']);
    const skipping = [
      ...[...vm.vm, 'backup', '--target', vm.target, '--level', 'inc', '--skip-failed-disks'],
      ...['--method', 'overlay', '--track', 'overlay', '--overlay-dir', vm.overlays],
    ];
    expect((await expectCli(3, skipping)).stderr).toMatch(/vdb/);
    await lab.virsh(['blockjob', vm.domain.uuid, 'vdb', '--abort']);
    await vm.writeAll(3, 0x92);
    const { point } = await vm.track('inc');
    expect(point.disks.find(({ disk }) => disk === 'vdb')?.changed).toBe(2 * MiB);
    expect(point.disks.find(({ disk }) => disk === 'vda')?.changed).toBe(MiB);
    await vm.expectLayers(1);
    await vm.expectRestored();
  });

  it('leaves a snapshot of somebody else alone, below and above', async () => {
    const vm = await overlaidDomain(lab);
    const theirs = join(lab.dir, `${vm.domain.name}-theirs`);
    const snapshot = (name: string): Promise<unknown> =>
      lab.virsh([
        ...['snapshot-create-as', vm.domain.uuid, name, '--disk-only'],
        ...[
          '--diskspec',
          `vda,file=${theirs}-${name}`,
          '--diskspec',
          'vdb,snapshot=no',
          '--diskspec',
          'vdc,snapshot=no',
        ],
      ]);
    await snapshot('before');
    await vm.writeAll(1, 0x71);
    expect((await vm.track('auto')).point.level).toBe('full');
    await vm.writeAll(2, 0x72);
    expect((await vm.track('inc')).point.level).toBe('inc');
    await vm.expectRestored();
    expect((await vm.chainOf('vda')).slice(1)).toEqual([`${theirs}-before`, vm.imageOf('vda')]);
    await snapshot('after');
    const { stderr } = await expectCli(13, [
      ...[...vm.vm, 'backup', '--target', vm.target],
      ...['--method', 'overlay', '--track', 'overlay', '--overlay-dir', vm.overlays],
    ]);
    expect(stderr).toMatch(/of somebody else above an overlay of ours/);
    await expectCli(13, [...vm.vm, 'consolidate-source']);
    await expectCli(13, [...vm.vm, 'consolidate-source', '--adopt', 'commit']);
    expect(await vm.chainOf('vda')).toHaveLength(4);
  });
});

describe('consolidate-source', () => {
  it('gives the running domain back as it was', async () => {
    const vm = await tracked();
    await vm.writeAll(2, 0x81);
    const told = await expectCli(0, [...vm.vm, 'consolidate-source', '--dry-run']);
    expect(told.stdout).toMatch(/vdb would be on .* alone; merged: /);
    await vm.expectLayers(1);
    await expectCli(0, [...vm.vm, 'consolidate-source']);
    await vm.expectLayers(0);
    for (const disk of OVERLAID) {
      await expectPattern(vm.domain, disk, { offset: MiB, length: MiB, pattern: 0x21 });
      await expectPattern(vm.domain, disk, { offset: 2 * MiB, length: MiB, pattern: 0x81 });
    }
    expect((await expectCli(0, [...vm.vm, 'consolidate-source'])).stdout).toMatch(/no overlays/);
    expect((await vm.track('auto')).point.disks[0]?.reason).toMatch(/is gone.*compared with FULL-/);
    await vm.expectRestored();
  });

  for (const how of ['commit', 'pull'] as const) {
    it(`takes the overlays that another program has left, by ${how}, and leaves their files`, async () => {
      const vm = await overlaidDomain(lab);
      const theirs = join(lab.dir, `${vm.domain.name}-fi`);
      await mkdir(theirs);
      for (const day of ['mon', 'tue', 'wed']) {
        await vm.writeAll(day.charCodeAt(0) % 8, day.charCodeAt(1));
        await lab.virsh([
          ...['snapshot-create-as', vm.domain.uuid, '--disk-only', '--atomic', '--no-metadata'],
          ...OVERLAID.flatMap((disk) => ['--diskspec', `${disk},file=${join(theirs, `${disk}.${day}`)},stype=file`]),
        ]);
      }
      await vm.writeAll(9, 0x99);
      const before = await Promise.all(OVERLAID.map((disk) => contentOf(vm, disk)));
      expect((await expectCli(0, [...vm.vm, 'consolidate-source'])).stdout).toMatch(/no overlays/);
      const { stderr } = await expectCli(0, [...vm.vm, 'consolidate-source', '--adopt', how]);
      expect(stderr).toMatch(/are left alone/);
      expect(await Promise.all(OVERLAID.map((disk) => contentOf(vm, disk)))).toEqual(before);
      for (const disk of OVERLAID) {
        expect(await vm.chainOf(disk)).toEqual([how === 'commit' ? vm.imageOf(disk) : join(theirs, `${disk}.wed`)]);
      }
      expect(await readdir(theirs)).toHaveLength(9);
    });
  }

  it('writes into no image that another domain has', async () => {
    const vm = await overlaidDomain(lab);
    const other = await overlaidDomain(lab);
    await other.domain.destroy();
    const template = join(lab.dir, `${vm.domain.name}-template`);
    await createImage({ file: template, format: 'qcow2', size: 8 * MiB });
    for (const { domain } of [vm, other]) {
      await run('qemu-img', [
        'create',
        '-q',
        '-f',
        'qcow2',
        '-b',
        template,
        '-F',
        'qcow2',
        `${template}-${domain.name}`,
      ]);
      const file = join(lab.dir, `${domain.name}.xml`);
      const disk = `<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='${template}-${domain.name}'/><backingStore type='file'><format type='qcow2'/><source file='${template}'/><backingStore/></backingStore><target dev='vdx' bus='virtio'/></disk>`;
      await writeFile(file, domain.xml.replace('<controller', `${disk}<controller`));
      await lab.virsh(['define', file]);
    }
    await vm.domain.destroy();
    await vm.domain.start();
    const { stderr } = await expectCli(13, [...vm.vm, 'consolidate-source', '--adopt', 'commit']);
    expect(stderr).toMatch(new RegExp(`is an image of the domain ${other.domain.name}, too`));
    await expectCli(0, [...vm.vm, 'consolidate-source', '--adopt', 'pull']);
  });
});

/** All bytes of a disk, as a digest. */
async function contentOf(vm: OverlaidDomain, disk: string): Promise<string> {
  await flush(vm.domain, disk);
  const [top = ''] = await vm.chainOf(disk);
  const qcow2 = /\.(overlay|mon|tue|wed)$/.test(top) || disk === 'vda';
  const raw = join(lab.dir, `content-${Math.random().toString(36).slice(2)}`);
  await run('qemu-img', ['convert', '-U', '-f', qcow2 ? 'qcow2' : 'raw', '-O', 'raw', top, raw]);
  const { stdout } = await run('sha256sum', ['--zero', raw]);
  await run('rm', [raw]);
  return stdout.slice(0, 64);
}
