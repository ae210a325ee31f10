import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { EmptyQcow2 } from '../../src/core/empty-qcow2.js';
import { createImage } from '../../src/host/empty-image.js';
import { run } from '../support/lab/programs.js';
import { labDir } from '../support/scenario.js';

const TiB = 1024 ** 4;

/** As qemu-img was asked for it before the program made them itself. */
async function byQemuImg(path: string, { size, backing, compressionType }: EmptyQcow2): Promise<Buffer> {
  const format = ['cluster_size=64k', ...(compressionType ? [`compression_type=${compressionType}`] : [])].join(',');
  const link = backing === undefined ? [] : ['-F', 'qcow2', '-b', backing];
  await run('qemu-img', ['create', '-q', '-u', '-f', 'qcow2', '-o', format, ...link, path, String(size)]);
  return readFile(path);
}

const IMAGES: readonly EmptyQcow2[] = [
  { size: 0 },
  { size: 1 },
  { size: 512 },
  { size: 10_000 },
  { size: 512 * 1024 ** 2 },
  { size: 512 * 1024 ** 2 + 512 },
  { size: 4 * TiB },
  { size: 4 * TiB + 512 },
  { size: 100 * TiB },
  { size: 2000 * TiB },
  { size: 1024 ** 3, compressionType: 'zlib' },
  { size: 1024 ** 3, compressionType: 'zstd' },
  { size: 1024 ** 3, backing: 'FULL-1.qcow2' },
  { size: 1024 ** 3, backing: '../vd 1/FULL-Ä"\\,1.qcow2', compressionType: 'zstd' },
  { size: 1024 ** 3, backing: 'n'.repeat(1023) },
];

describe('an empty image', () => {
  it.each(IMAGES)('is byte for byte the one of qemu-img: %o', async (image) => {
    const dir = await labDir();
    const theirs = await byQemuImg(join(dir, 'theirs.qcow2'), image);
    await createImage(join(dir, 'ours.qcow2'), image);
    expect((await readFile(join(dir, 'ours.qcow2'))).equals(theirs)).toBe(true);
  });

  it.each([
    { image: { size: 2049 * TiB }, words: 'too large' },
    { image: { size: 1, backing: 'n'.repeat(1024) }, words: 'too long' },
  ])('is refused where qemu-img refuses it, too: $words', async ({ image, words }) => {
    const dir = await labDir();
    await expect(byQemuImg(join(dir, 'theirs.qcow2'), image)).rejects.toThrow();
    await expect(createImage(join(dir, 'ours.qcow2'), image)).rejects.toThrow(words);
  });
});
