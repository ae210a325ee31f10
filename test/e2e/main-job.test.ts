import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { isPlainLine } from '../../src/core/plain-line.js';
import { levelsOf } from '../support/comparison.js';
import { MiB } from '../support/builders.js';
import { discard, write, writeZeroes } from '../support/lab/guest-writes.js';
import { scenario } from '../support/scenario.js';

describe('full, incremental, restore', () => {
  it('the chain equals the disks after FULL and after each INC', async () => {
    const lab = await scenario();
    await write(lab.vm, 'd1', { offset: 0, length: 16 * MiB, pattern: 0x11 });
    await write(lab.vm, 'd2', { offset: 5 * MiB, length: 3 * MiB, pattern: 0x22 });
    const full = await lab.backup('full');
    expect(full.point).toMatchObject({ number: 0, level: 'full', consistency: 'crash' });
    await lab.expectChainEqualsDisks();

    await write(lab.vm, 'd1', { offset: 8 * MiB + 4096, length: 4096, pattern: 0x33 });
    const inc = await lab.backup('inc');
    expect(inc.point).toMatchObject({ number: 1, level: 'inc', chain: full.point.chain });
    expect(inc.point.disks.map(({ disk, level, changed }) => [disk, level, changed])).toEqual([
      ['d1', 'inc', 65536],
      ['d2', 'inc', 0],
    ]);
    await lab.expectChainEqualsDisks();

    await write(lab.vm, 'd2', { offset: 0, length: MiB, pattern: 0x44 });
    await lab.backup('auto');
    await lab.expectChainEqualsDisks();
    await lab.expectNothingLeft(2);
  });

  it('the line of an increment is one that is read without the schema', async () => {
    const lab = await scenario();
    await lab.backup('full');
    await lab.backup('inc');
    await lab.backup('diff');
    const lines = (await readFile(join(lab.target, 'catalog.json'), 'utf8')).split(/,?\n/).slice(1, 4);
    expect(lines.map(isPlainLine)).toEqual([false, true, true]);
  });

  it('zeroed and discarded areas read as zeros from the INC', async () => {
    const lab = await scenario();
    for (const disk of ['d1', 'd2']) {
      await write(lab.vm, disk, { offset: 0, length: 16 * MiB, pattern: 0x55 });
    }
    await lab.backup('full');
    for (const disk of ['d1', 'd2']) {
      await writeZeroes(lab.vm, disk, { offset: MiB, length: 2 * MiB });
      await discard(lab.vm, disk, { offset: 8 * MiB, length: 4 * MiB });
    }
    await lab.backup('inc');
    await lab.expectChainEqualsDisks();
  });

  it('diff copies what changed since the FULL, and inc builds on it', async () => {
    const lab = await scenario();
    await lab.backup('full');
    await write(lab.vm, 'd1', { offset: 0, length: MiB, pattern: 0x11 });
    await lab.backup('inc');
    await write(lab.vm, 'd1', { offset: 2 * MiB, length: MiB, pattern: 0x12 });
    const diff = await lab.backup('diff');
    expect(diff.point.disks[0]).toMatchObject({ level: 'diff', changed: 2 * MiB });
    await lab.expectChainEqualsDisks();
    await write(lab.vm, 'd1', { offset: 4 * MiB, length: MiB, pattern: 0x13 });
    expect((await lab.backup('inc')).point.disks[0]).toMatchObject({ changed: MiB });
    await lab.expectChainEqualsDisks();
  });

  it('a copy leaves chain and bitmaps alone', async () => {
    const lab = await scenario();
    await lab.backup('full');
    const before = await lab.bitmaps();
    await write(lab.vm, 'd1', { offset: 0, length: MiB, pattern: 0x11 });
    const copy = await lab.backup('copy');
    expect(copy.point).toMatchObject({ level: 'copy', chain: null });
    expect(await lab.bitmaps()).toEqual(before);
    expect((await lab.backup('inc')).point).toMatchObject({ number: 1, level: 'inc' });
    await lab.expectChainEqualsDisks();
  });
});

describe('QEMU ends', () => {
  it('gracefully between FULL and INC: the INC is incremental', async () => {
    const lab = await scenario();
    await write(lab.vm, 'd1', { offset: 0, length: MiB, pattern: 0x11 });
    await lab.backup('full');
    await write(lab.vm, 'd1', { offset: 2 * MiB, length: MiB, pattern: 0x12 });
    await lab.vm.stop();
    await lab.restart();
    await write(lab.vm, 'd1', { offset: 4 * MiB, length: MiB, pattern: 0x13 });
    expect((await lab.backup('inc')).point.disks[0]).toMatchObject({ changed: 2 * MiB });
    await lab.expectChainEqualsDisks();
  });

  it('by kill -9: auto compares the disks concerned and says why; inc refuses', async () => {
    const lab = await scenario();
    await lab.backup('full');
    await write(lab.vm, 'd1', { offset: 2 * MiB, length: MiB, pattern: 0x12 });
    await lab.vm.kill();
    await lab.restart();
    const auto = await lab.backup('auto');
    expect(levelsOf(auto)).toEqual(['d1 inc by comparison', 'd2 inc by comparison']);
    expect(auto.point.disks[0]!.reason).toContain('QEMU was killed');
    await lab.expectChainEqualsDisks();
    await lab.expectNothingLeft(1);
    await write(lab.vm, 'd2', { offset: 0, length: MiB, pattern: 0x14 });
    expect((await lab.backup('inc')).point.level).toBe('inc');
    await lab.expectChainEqualsDisks();
  });
});
