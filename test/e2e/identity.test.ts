import { copyFile, cp, mkdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { expectCli } from '../support/cli.js';
import { compareImages } from '../support/lab/compare.js';
import { createImage } from '../support/lab/disk-images.js';
import { flush, write, type WritableVm } from '../support/lab/guest-writes.js';
import { run } from '../support/lab/programs.js';
import { type Disk, type LabDisk } from '../support/lab/qemu.js';
import { type BackupAnswer, labDir, scenario, type Scenario } from '../support/scenario.js';

/**
 * Images and targets that are not what they were at the last point. Whatever became of them, the newest point of a
 * target, restored, is what the disks hold, byte for byte; and the level is the one that is both safe and smallest.
 */

let pattern = 0x10;

/** Something new in one place of a disk; places differ so that a lost write shows. */
async function change(lab: Scenario, disk: string, megabyte: number): Promise<void> {
  await write(lab.vm, disk, { offset: megabyte * MiB + 65536, length: 3 * 65536, pattern: ++pattern & 0xff });
}

/** Restores the newest point of the answer's target and compares each disk with the image that it was taken from. */
async function expectRestores({ target, point }: BackupAnswer, lab: Scenario): Promise<void> {
  for (const { id, file } of lab.vm.options.disks) if (file !== undefined) await flush(lab.vm, id);
  const output = join(lab.dir, `restored-${++pattern}`);
  await expectCli(0, ['restore', '--target', target, '--output', output]);
  for (const { disk, source } of point.disks) await compareImages(join(output, `${disk}.qcow2`), source.file);
  await rm(output, { recursive: true });
}

/** One point of `level`, proven by its bytes; returns the level of each disk. */
async function pointOf(lab: Scenario, level: string, ...more: string[]): Promise<BackupAnswer & { levels: string }> {
  const answer = await lab.backup(level, ...more);
  await expectRestores(answer, lab);
  return { ...answer, levels: answer.point.disks.map((each) => `${each.disk} ${each.level}`).join(', ') };
}

async function expectIncRefused(lab: Scenario, why: RegExp, target = lab.target): Promise<void> {
  const before = await lab.bitmaps();
  const { stderr } = await expectCli(13, ['--socket', lab.vm.socket, 'backup', '--level', 'inc', '--target', target]);
  expect(stderr).toMatch(why);
  expect(await lab.bitmaps()).toEqual(before);
}

describe('the target folder is copied and both copies are used in turn', () => {
  it('both go on incrementally when the copy was made after the FULL', async () => {
    const lab = await scenario();
    const other = join(lab.dir, 'copy');
    await change(lab, 'd1', 1);
    await lab.backup('full');
    // The copied files have other modification times: their digests tell that they are the same.
    await cp(lab.target, other, { recursive: true });
    for (let round = 0; round < 3; round += 1) {
      await change(lab, 'd1', 2 + round);
      expect((await pointOf(lab, 'inc')).levels).toBe('d1 inc, d2 inc');
      await change(lab, 'd2', 12 + round);
      expect((await pointOf(lab, 'inc', '--target', other)).levels).toBe('d1 inc, d2 inc');
    }
  });

  it('the second one begins anew when the copy was made after an INC, then both go on', async () => {
    const lab = await scenario();
    const other = join(lab.dir, 'copy');
    await lab.backup('full');
    await change(lab, 'd1', 1);
    await lab.backup('inc');
    await cp(lab.target, other, { recursive: true, preserveTimestamps: true });
    await change(lab, 'd1', 2);
    expect((await pointOf(lab, 'inc')).levels).toBe('d1 inc, d2 inc');
    await change(lab, 'd2', 3);
    await expectIncRefused(lab, /d1: the bitmap of INC-\d+\.qcow2 is gone/, other);
    const anew = await pointOf(lab, 'auto', '--target', other);
    expect(anew.levels).toBe('d1 full, d2 full');
    expect(anew.point.disks[0]!.reason).toContain('is gone');
    for (let round = 0; round < 2; round += 1) {
      await change(lab, 'd1', 4 + round);
      expect((await pointOf(lab, 'auto')).levels).toBe('d1 inc, d2 inc');
      await change(lab, 'd2', 14 + round);
      expect((await pointOf(lab, 'auto', '--target', other)).levels).toBe('d1 inc, d2 inc');
    }
    // The bitmap of the first FULL went with the second copy's new chain.
    await expectCli(13, ['--socket', lab.vm.socket, 'backup', '--level', 'diff', '--target', lab.target]);
  });
});

it('the images of two disks swapped: each chain goes on with its own image', async () => {
  const lab = await scenario([{ id: 'd1' }, { id: 'd2', via: 'blockdev' }]);
  const [first, second] = [join(lab.dir, 'd1.qcow2'), join(lab.dir, 'd2.qcow2')];
  await change(lab, 'd1', 1);
  await change(lab, 'd2', 2);
  await lab.backup('full');
  for (const own of [
    { d1: second, d2: first },
    { d1: first, d2: second },
  ]) {
    await change(lab, 'd1', 3);
    await lab.vm.stop();
    await rename(first, `${first}.aside`);
    await rename(second, first);
    await rename(`${first}.aside`, second);
    await lab.restart();
    await change(lab, 'd2', 4);
    const { point, levels } = await pointOf(lab, 'inc');
    expect(levels.split(', ').toSorted()).toEqual(['d1 inc', 'd2 inc']);
    expect(Object.fromEntries(point.disks.map(({ disk, source }) => [disk, source.file]))).toEqual(own);
  }
});

it('an image rolled back to an earlier copy: FULL wherever a point was taken since, the other disk goes on', async () => {
  const lab = await scenario();
  const image = join(lab.dir, 'd1.qcow2');
  const turnedOff = async (step: () => Promise<void>): Promise<void> => {
    await lab.vm.stop();
    await step();
    await lab.restart();
  };
  const saved = (name: string): string => join(lab.dir, name);
  await change(lab, 'd1', 1);
  await lab.backup('full');
  await turnedOff(() => copyFile(image, saved('after-full')));
  await change(lab, 'd1', 2);
  await lab.backup('inc');
  await turnedOff(() => copyFile(image, saved('after-inc')));
  await change(lab, 'd1', 3);
  await change(lab, 'd2', 3);
  await lab.backup('inc');

  for (const copy of ['after-inc', 'after-full']) {
    await turnedOff(() => copyFile(saved(copy), image));
    await change(lab, 'd1', 4);
    await expectIncRefused(lab, /d1: the bitmap of INC-\d+\.qcow2 is gone \(.*rolled back\)/);
    const anew = await pointOf(lab, 'auto');
    expect(anew.levels).toBe('d1 full, d2 inc');
    expect(anew.point.disks[0]!.reason).toContain('rolled back');
    await change(lab, 'd1', 5);
    expect((await pointOf(lab, 'inc')).levels).toBe('d1 inc, d2 inc');
  }

  // With no point in between the bitmap was rolled back along with the data, and still tells the truth.
  await change(lab, 'd1', 6);
  await turnedOff(() => copyFile(image, saved('between')));
  await change(lab, 'd1', 7);
  await turnedOff(() => copyFile(saved('between'), image));
  await change(lab, 'd1', 8);
  expect((await pointOf(lab, 'inc')).levels).toBe('d1 inc, d2 inc');
});

it('a rolled back image has the bitmap of the FULL: diff says what differs from it', async () => {
  const lab = await scenario([{ id: 'd1' }]);
  const image = join(lab.dir, 'd1.qcow2');
  await change(lab, 'd1', 1);
  await lab.backup('full');
  await change(lab, 'd1', 2);
  await lab.vm.stop();
  await copyFile(image, `${image}.copy`);
  await lab.restart();
  await change(lab, 'd1', 3);
  await lab.backup('inc');
  await lab.vm.stop();
  await rename(`${image}.copy`, image);
  await lab.restart();
  await change(lab, 'd1', 4);
  expect((await pointOf(lab, 'diff')).levels).toBe('d1 diff');
  await change(lab, 'd1', 5);
  expect((await pointOf(lab, 'inc')).levels).toBe('d1 inc');
});

describe('an external snapshot between two points', () => {
  const takeSnapshot = async (lab: Scenario): Promise<string> => {
    const overlay = join(lab.dir, `overlay-${++pattern}.qcow2`);
    const file = { 'snapshot-file': overlay, format: 'qcow2' };
    await lab.vm.control.execute('blockdev-snapshot-sync', { device: 'd1', ...file });
    return overlay;
  };
  const commitActive = async (lab: Scenario): Promise<void> => {
    const events = lab.vm.control.events(['BLOCK_JOB_READY', 'BLOCK_JOB_COMPLETED']);
    await lab.vm.control.execute('block-commit', { device: 'd1', 'job-id': 'theirs' });
    await events.next({ timeoutMs: 30_000 });
    await lab.vm.control.execute('block-job-complete', { device: 'theirs' });
    await events.next({ timeoutMs: 30_000 });
    events.close();
  };

  it('is backed up in full, and in full again after it was committed back', async () => {
    const lab = await scenario();
    const base = join(lab.dir, 'd1.qcow2');
    await change(lab, 'd1', 1);
    await lab.backup('full');
    await change(lab, 'd1', 2);
    const overlay = await takeSnapshot(lab);
    await change(lab, 'd1', 3);
    await expectIncRefused(lab, /d1: .*external snapshot/);
    const over = await pointOf(lab, 'auto');
    expect(over.levels).toBe('d1 full, d2 inc');
    expect(over.point.disks[0]).toMatchObject({ source: { file: overlay } });
    expect(over.point.disks[0]!.reason).toContain('external snapshot');
    await change(lab, 'd1', 4);
    expect((await pointOf(lab, 'inc')).levels).toBe('d1 inc, d2 inc');

    await change(lab, 'd1', 5);
    await commitActive(lab);
    await change(lab, 'd1', 6);
    const back = await pointOf(lab, 'auto');
    expect(back.levels).toBe('d1 full, d2 inc');
    expect(back.point.disks[0]).toMatchObject({ source: { file: base } });
    await change(lab, 'd1', 7);
    expect((await pointOf(lab, 'inc')).levels).toBe('d1 inc, d2 inc');
    await lab.expectNothingLeft(2);
  });

  it('committed back with no point in between: the bitmap of the base saw the commit', async () => {
    const lab = await scenario();
    await change(lab, 'd1', 1);
    await lab.backup('full');
    await change(lab, 'd1', 2);
    await takeSnapshot(lab);
    await change(lab, 'd1', 3);
    await commitActive(lab);
    await change(lab, 'd1', 4);
    const { levels } = await pointOf(lab, 'auto');
    expect(levels).toBe('d1 inc, d2 inc');
    await change(lab, 'd1', 5);
    expect((await pointOf(lab, 'inc')).levels).toBe('d1 inc, d2 inc');
  });

  it.each([
    { between: true, then: 'committed' },
    { between: false, then: 'committed' },
    { between: true, then: 'thrown away' },
    { between: false, then: 'thrown away' },
  ])('is $then while the VM is off (point in between: $between)', async ({ between, then }) => {
    const lab = await scenario();
    await change(lab, 'd1', 1);
    await lab.backup('full');
    await change(lab, 'd1', 2);
    const overlay = await takeSnapshot(lab);
    await change(lab, 'd1', 3);
    if (between) expect((await pointOf(lab, 'auto')).levels).toBe('d1 full, d2 inc');
    await change(lab, 'd1', 4);
    await lab.vm.stop();
    if (then === 'committed') await run('qemu-img', ['commit', '-q', overlay]);
    await rm(overlay);
    await lab.restart();
    await change(lab, 'd1', 5);
    if (between) await expectIncRefused(lab, /d1: the bitmap of FULL-\d+\.qcow2 is gone/);
    expect((await pointOf(lab, 'auto')).levels).toBe(between ? 'd1 full, d2 inc' : 'd1 inc, d2 inc');
    await change(lab, 'd1', 6);
    expect((await pointOf(lab, 'inc')).levels).toBe('d1 inc, d2 inc');
  });
});

describe('names that are not unique', () => {
  it('two images of one file name in different folders have a chain each', async () => {
    const images = await labDir();
    const [first, second] = [join(images, 'a', 'disk.qcow2'), join(images, 'b', 'disk.qcow2')];
    for (const folder of ['a', 'b']) await mkdir(join(images, folder));
    const lab = await scenario([
      { id: 'd1', file: first },
      { id: 'd2', file: second, via: 'blockdev' },
    ]);
    await change(lab, 'd1', 1);
    await change(lab, 'd2', 2);
    const full = await pointOf(lab, 'full');
    expect(full.point.disks.map(({ disk, source }) => [disk, source.file])).toEqual([
      ['d1', first],
      ['d2', second],
    ]);
    await change(lab, 'd2', 3);
    const inc = await pointOf(lab, 'inc', '--include', second);
    expect(inc.levels).toBe('d2 inc');
  });

  it('the same where the file name is all there is: no device name, node name or id of a guest device', async () => {
    const images = await labDir();
    const files = await Promise.all(
      ['a', 'b'].map(async (folder) => {
        await mkdir(join(images, folder));
        await createImage({ file: join(images, folder, 'disk.qcow2'), format: 'qcow2', size: 32 * MiB });
        return { base: join(images, folder, 'disk.qcow2'), top: join(images, folder, 'top.qcow2') };
      }),
    );
    const nameless = (order: readonly string[]): string[] =>
      order.flatMap((file, index) => [
        ...['-blockdev', `driver=qcow2,node-name=n${index},file.driver=file,file.filename=${file}`],
        ...['-device', `virtio-blk-pci,drive=n${index}`],
      ]);
    const lab = await scenario([], { args: nameless(files.map(({ base }) => base)) });
    // The overlay that QEMU makes has a node name of QEMU's making.
    for (const [index, { top }] of files.entries()) {
      await lab.vm.control.execute('blockdev-snapshot-sync', {
        'node-name': `n${index}`,
        'snapshot-file': top,
        format: 'qcow2',
      });
    }
    const io = anonymousDisks(lab);
    await write(io, '0', { offset: 0, length: MiB, pattern: 0x21 });
    await write(io, '1', { offset: MiB, length: MiB, pattern: 0x22 });
    for (const disk of ['0', '1']) await flush(io, disk);
    const full = await pointOf(lab, 'full');
    expect(full.point.disks.map(({ disk, source }) => [disk, source.file])).toEqual([
      ['top.qcow2', files[0]!.top],
      ['top.qcow2-2', files[1]!.top],
    ]);

    // In another order: QEMU's numbers of devices change places, the chains do not.
    await lab.vm.stop();
    await lab.restart({ args: nameless(files.map(({ top }) => top).toReversed()) });
    const again = anonymousDisks(lab);
    await write(again, '0', { offset: 4 * MiB, length: MiB, pattern: 0x23 });
    for (const disk of ['0', '1']) await flush(again, disk);
    const inc = await pointOf(lab, 'inc');
    expect(inc.point.disks.map(({ disk, source, level }) => [disk, source.file, level])).toEqual([
      ['top.qcow2-2', files[1]!.top, 'inc'],
      ['top.qcow2', files[0]!.top, 'inc'],
    ]);
  });

  it('a backend without a device is backed up under its own name, and shifts nobody else', async () => {
    const images = await labDir();
    const file = join(images, 'd1.qcow2');
    await createImage({ file, format: 'qcow2', size: 32 * MiB });
    const lab = await scenario([{ id: 'd1' }, { id: 'd2', via: 'blockdev' }], {
      args: ['-drive', `if=none,id=spare,file=${file},format=qcow2`],
    });
    const io = withDisk(lab, { id: 'spare', hmpReference: 'spare', args: [] });
    await write(io, 'spare', { offset: 0, length: MiB, pattern: 0x31 });
    await flush(io, 'spare');
    const full = await pointOf(lab, 'full');
    expect(Object.fromEntries(full.point.disks.map(({ disk, source }) => [disk, source.file]))).toEqual({
      d1: join(lab.dir, 'd1.qcow2'),
      d2: join(lab.dir, 'd2.qcow2'),
      spare: file,
    });
    await write(io, 'spare', { offset: 2 * MiB, length: MiB, pattern: 0x32 });
    await flush(io, 'spare');
    await change(lab, 'd1', 3);
    const inc = await pointOf(lab, 'inc');
    expect(inc.point.disks.every(({ level }) => level === 'inc')).toBe(true);
  });

  it('a cloned image as a second disk is a new disk, whichever device has it', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const [original, clone] = [join(lab.dir, 'd1.qcow2'), join(lab.dir, 'clone.qcow2')];
    const disks = (first: string, second: string): Disk[] => [
      { id: 'd1', format: 'qcow2', file: first },
      { id: 'd3', format: 'qcow2', file: second },
    ];
    await change(lab, 'd1', 1);
    await lab.backup('full');
    await change(lab, 'd1', 2);
    await lab.vm.stop();
    await copyFile(original, clone);
    await lab.restart({ disks: disks(original, clone) });
    await change(lab, 'd1', 3);
    await change(lab, 'd3', 4);
    await expectIncRefused(lab, /d3: first backup of this disk/);
    const first = await pointOf(lab, 'auto');
    expect(first.levels).toBe('d1 inc, d3 full');
    await change(lab, 'd3', 5);
    expect((await pointOf(lab, 'inc')).levels).toBe('d1 inc, d3 inc');

    // The clone goes to the original's device and the other way round: the newest bitmaps tell which is which.
    await lab.vm.stop();
    await lab.restart({ disks: disks(clone, original) });
    await change(lab, 'd1', 6);
    const { point } = await pointOf(lab, 'auto');
    expect(point.disks.map(({ disk, source, level }) => [disk, source.file, level]).toSorted()).toEqual([
      ['d1', original, 'inc'],
      ['d3', clone, 'inc'],
    ]);
  });

  it('a clone in the place of the original is its disk: its bitmap tells what it changed', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const [original, clone] = [join(lab.dir, 'd1.qcow2'), join(lab.dir, 'clone.qcow2')];
    await change(lab, 'd1', 1);
    await lab.backup('full');
    await change(lab, 'd1', 2);
    await lab.vm.stop();
    await copyFile(original, clone);
    await lab.restart({ disks: [{ id: 'd1', format: 'qcow2', file: clone }] });
    await change(lab, 'd1', 3);
    expect((await pointOf(lab, 'inc')).levels).toBe('d1 inc');
    await lab.vm.stop();
    await lab.restart({ disks: [{ id: 'd1', format: 'qcow2', file: original }] });
    expect((await pointOf(lab, 'auto')).levels).toBe('d1 full');
  });
});

describe('a disk that shrank', () => {
  it('while the VM was off: FULL of the new size, then incremental', async () => {
    const lab = await scenario();
    await change(lab, 'd1', 1);
    await change(lab, 'd1', 50);
    await lab.backup('full');
    await lab.vm.stop();
    await run('qemu-img', ['resize', '-q', '--shrink', join(lab.dir, 'd1.qcow2'), String(32 * MiB)]);
    await lab.restart();
    await change(lab, 'd1', 2);
    await expectIncRefused(lab, /d1: the disk was shrunk from 67108864 to 33554432 bytes/);
    const anew = await pointOf(lab, 'auto');
    expect(anew.levels).toBe('d1 full, d2 inc');
    expect(anew.point.disks[0]!.reason).toContain('was shrunk');
    await change(lab, 'd1', 3);
    expect((await pointOf(lab, 'inc')).levels).toBe('d1 inc, d2 inc');
  });

  it('while the VM ran: the same', async () => {
    const lab = await scenario();
    await change(lab, 'd1', 50);
    await lab.backup('full');
    await lab.vm.control.execute('block_resize', { device: 'd1', size: 32 * MiB });
    await change(lab, 'd1', 2);
    const anew = await pointOf(lab, 'auto');
    expect(anew.levels).toBe('d1 full, d2 inc');
    expect(anew.point.disks[0]!.reason).toContain('was shrunk');
    await change(lab, 'd1', 3);
    expect((await pointOf(lab, 'inc')).levels).toBe('d1 inc, d2 inc');
  });
});

/** The VM's disks, and one that the lab does not know of. */
function withDisk(lab: Scenario, disk: LabDisk): WritableVm {
  const { control, stdout } = lab.vm;
  return { control, stdout, disk: (id) => (id === disk.id ? disk : lab.vm.disk(id)) };
}

/** Guest devices that were given no id, by the number that QEMU gave them. */
function anonymousDisks(lab: Scenario): WritableVm {
  const { control, stdout } = lab.vm;
  return {
    control,
    stdout,
    disk: (id) => ({ id, args: [], hmpReference: `-d /machine/peripheral-anon/device[${id}]/virtio-backend` }),
  };
}
