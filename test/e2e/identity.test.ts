import { copyFile, cp, mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { levelsOf } from '../support/comparison.js';
import { MiB } from '../support/builders.js';
import { expectCli } from '../support/cli.js';
import { compareImages } from '../support/lab/compare.js';
import { createImage } from '../support/lab/disk-images.js';
import { flush, type WritableVm, write } from '../support/lab/guest-writes.js';
import { run } from '../support/lab/programs.js';
import type { Disk, LabDisk } from '../support/lab/qemu.js';
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

/** Every disk of the newest point, as it can be opened where it lies, equals the image that it was taken from. */
async function expectEquals({ target, point }: BackupAnswer, lab: Scenario): Promise<void> {
  for (const { id, file } of lab.vm.options.disks) if (file !== undefined) await flush(lab.vm, id);
  for (const { disk, file, source } of point.disks) await compareImages(join(target, disk, file), source.file);
}

/** The same by way of `restore`. */
async function expectRestores({ target, point }: BackupAnswer, lab: Scenario): Promise<void> {
  const output = join(lab.dir, `restored-${++pattern}`);
  await expectCli(0, ['restore', '--target', target, '--output', output]);
  for (const { disk, source } of point.disks) await compareImages(join(output, `${disk}.qcow2`), source.file);
}

type Answer = BackupAnswer & { readonly levels: string };

/** One point, proven by its bytes; `levels` is the level of each disk. */
async function pointOf(lab: Scenario, level: string, ...more: string[]): Promise<Answer> {
  const answer = await lab.backup(level, ...more);
  await expectEquals(answer, lab);
  return { ...answer, levels: levelsOf(answer).join(', ') };
}

/** Refused for that reason, with no new bitmap and nothing new in the target. */
async function expectIncRefused(lab: Scenario, why: RegExp, target = lab.target): Promise<void> {
  const [bitmaps, files] = [await lab.bitmaps(), await filesIn(target)];
  const { stderr } = await expectCli(13, ['--socket', lab.vm.socket, 'backup', '--level', 'inc', '--target', target]);
  expect(stderr).toMatch(why);
  for (const [disk, names] of Object.entries(await lab.bitmaps())) {
    expect(bitmaps[disk]).toEqual(expect.arrayContaining(names));
  }
  expect(await filesIn(target)).toEqual(files);
}

/** Names, times and sizes. */
async function filesIn(folder: string): Promise<readonly string[]> {
  const names = await readdir(folder, { recursive: true });
  const files = names.map(async (name) => {
    const { size, mtimeMs } = await stat(join(folder, name));
    return `${name} ${size} ${name.includes('.') ? mtimeMs : ''}`;
  });
  return (await Promise.all(files)).toSorted();
}

/** Which image each disk of a point was taken from. */
function imagesOf({ point }: BackupAnswer): Record<string, string> {
  return Object.fromEntries(point.disks.map(({ disk, source }) => [disk, source.file]));
}

describe('the target folder is copied and both copies are used in turn', () => {
  it('both go on incrementally when the copy was made after the FULL', async () => {
    const lab = await scenario();
    const other = join(lab.dir, 'copy');
    await change(lab, 'd1', 1);
    await lab.backup('full');
    // The copied files have other modification times: their digests tell that they are the same.
    await cp(lab.target, other, { recursive: true });
    for (let round = 0; round < 2; round += 1) {
      await change(lab, 'd1', 2 + round);
      expect((await pointOf(lab, 'inc')).levels).toBe('d1 inc, d2 inc');
      await change(lab, 'd2', 12 + round);
      const second = await pointOf(lab, 'inc', '--target', other);
      expect(second.levels).toBe('d1 inc, d2 inc');
      await expectRestores(second, lab);
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
    expect(anew.levels).toBe('d1 inc by comparison, d2 inc by comparison');
    expect(anew.point.disks[0]!.reason).toContain('is gone');
    for (let round = 0; round < 2; round += 1) {
      await change(lab, 'd1', 4 + round);
      expect((await pointOf(lab, 'auto')).levels).toBe('d1 inc, d2 inc');
      await change(lab, 'd2', 14 + round);
      const second = await pointOf(lab, 'auto', '--target', other);
      expect(second.levels).toBe('d1 inc, d2 inc');
      await expectRestores(second, lab);
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
    const swapped = await pointOf(lab, 'inc');
    expect(swapped.levels.split(', ').toSorted()).toEqual(['d1 inc', 'd2 inc']);
    expect(imagesOf(swapped)).toEqual(own);
    await expectRestores(swapped, lab);
  }
});

it('an image rolled back to an earlier copy: compared wherever a point was taken since, the other disk goes on', async () => {
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
    expect(anew.levels).toBe('d1 inc by comparison, d2 inc');
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
  const last = await pointOf(lab, 'inc');
  expect(last.levels).toBe('d1 inc, d2 inc');
  await expectRestores(last, lab);
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
  const commitActive = (lab: Scenario): Promise<void> =>
    completing(lab, 'theirs', () => lab.vm.control.execute('block-commit', { device: 'd1', 'job-id': 'theirs' }));

  it('is compared, and compared again after it was committed back', async () => {
    const lab = await scenario();
    const base = join(lab.dir, 'd1.qcow2');
    await change(lab, 'd1', 1);
    await lab.backup('full');
    await change(lab, 'd1', 2);
    const overlay = await takeSnapshot(lab);
    await change(lab, 'd1', 3);
    await expectIncRefused(lab, /d1: .*external snapshot/);
    const over = await pointOf(lab, 'auto');
    expect(over.levels).toBe('d1 inc by comparison, d2 inc');
    expect(over.point.disks[0]).toMatchObject({ source: { file: overlay } });
    expect(over.point.disks[0]!.reason).toContain('external snapshot');
    await change(lab, 'd1', 4);
    expect((await pointOf(lab, 'inc')).levels).toBe('d1 inc, d2 inc');

    await change(lab, 'd1', 5);
    await commitActive(lab);
    await change(lab, 'd1', 6);
    const back = await pointOf(lab, 'auto');
    expect(back.levels).toBe('d1 inc by comparison, d2 inc');
    expect(back.point.disks[0]).toMatchObject({ source: { file: base } });
    await change(lab, 'd1', 7);
    const last = await pointOf(lab, 'inc');
    expect(last.levels).toBe('d1 inc, d2 inc');
    await expectRestores(last, lab);
    await lab.expectNothingLeft(2);
  });

  it.each(['qcow2', 'raw'] as const)('%s, committed back with no point in between: incremental', async (format) => {
    // The bitmap of the base saw what the commit wrote.
    const lab = await scenario([{ id: 'd1', format }, { id: 'd2' }]);
    await change(lab, 'd1', 1);
    await lab.backup('full');
    await change(lab, 'd1', 2);
    await takeSnapshot(lab);
    await change(lab, 'd1', 3);
    await commitActive(lab);
    await change(lab, 'd1', 4);
    const committed = await pointOf(lab, 'auto');
    expect(committed.levels).toBe('d1 inc, d2 inc');
    await expectRestores(committed, lab);
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
    if (between) expect((await pointOf(lab, 'auto')).levels).toBe('d1 inc by comparison, d2 inc');
    await change(lab, 'd1', 4);
    await lab.vm.stop();
    if (then === 'committed') await run('qemu-img', ['commit', '-q', overlay]);
    await rm(overlay);
    await lab.restart();
    await change(lab, 'd1', 5);
    if (between) await expectIncRefused(lab, /d1: the bitmap of INC-\d+\.qcow2 is gone/);
    expect((await pointOf(lab, 'auto')).levels).toBe(between ? 'd1 inc by comparison, d2 inc' : 'd1 inc, d2 inc');
    await change(lab, 'd1', 6);
    const last = await pointOf(lab, 'inc');
    expect(last.levels).toBe('d1 inc, d2 inc');
    await expectRestores(last, lab);
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
    expect(imagesOf(full)).toEqual({ d1: first, d2: second });
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
    // The image that QEMU moves a disk to without being told a node name has one of QEMU's making.
    for (const [index, { top }] of files.entries()) await moveTo(lab, `n${index}`, top);
    const io = anonymousDisks(lab);
    await write(io, '0', { offset: 0, length: MiB, pattern: 0x21 });
    await write(io, '1', { offset: MiB, length: MiB, pattern: 0x22 });
    for (const disk of ['0', '1']) await flush(io, disk);
    const full = await pointOf(lab, 'full');
    const own = { 'top.qcow2': files[0]!.top, 'top.qcow2-2': files[1]!.top };
    expect(imagesOf(full)).toEqual(own);

    // In another order: QEMU's numbers of devices change places, the chains do not.
    await lab.vm.stop();
    await lab.restart({ args: nameless(files.map(({ top }) => top).toReversed()) });
    const again = anonymousDisks(lab);
    await write(again, '0', { offset: 4 * MiB, length: MiB, pattern: 0x23 });
    for (const disk of ['0', '1']) await flush(again, disk);
    const inc = await pointOf(lab, 'inc');
    expect(inc.levels).toBe('top.qcow2-2 inc, top.qcow2 inc');
    expect(imagesOf(inc)).toEqual(own);
    await expectRestores(inc, lab);
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
    expect(imagesOf(full)).toEqual({
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
    const exchanged = await pointOf(lab, 'auto');
    expect(exchanged.levels.split(', ').toSorted()).toEqual(['d1 inc', 'd3 inc']);
    expect(imagesOf(exchanged)).toEqual({ d1: original, d3: clone });
    await expectRestores(exchanged, lab);
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
    expect((await pointOf(lab, 'auto')).levels).toBe('d1 inc by comparison');
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

/** Moves a disk to a new image while the VM runs. */
async function moveTo(lab: Scenario, node: string, file: string): Promise<void> {
  const job = 'theirs';
  const move = { device: node, 'job-id': job, target: file, format: 'qcow2', sync: 'full' };
  await completing(lab, job, () => lab.vm.control.execute('drive-mirror', move));
}

/** Starts a job of somebody else's that has to be completed by hand, and completes it. */
async function completing(lab: Scenario, job: string, start: () => Promise<unknown>): Promise<void> {
  const events = lab.vm.control.events(['BLOCK_JOB_READY', 'BLOCK_JOB_COMPLETED']);
  await start();
  await events.next({ timeoutMs: 30_000 });
  await lab.vm.control.execute('block-job-complete', { device: job });
  await events.next({ timeoutMs: 30_000 });
  events.close();
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
