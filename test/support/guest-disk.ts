import { createHash } from 'node:crypto';
import { randomBytes } from 'node:crypto';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { MiB } from './builders.js';
import { writeFile as writeRange } from './lab/guest-writes.js';
import { run } from './lab/programs.js';
import type { Scenario } from './scenario.js';

/** A partitioned disk with file systems that no kernel has mounted: ext4, FAT and NTFS on partitions 1 to 3. */
export const PARTITIONS = [
  { offset: MiB, size: 40 * MiB },
  { offset: 41 * MiB, size: 20 * MiB },
  { offset: 61 * MiB, size: 20 * MiB },
] as const;

const FILES = 20;

/** Names of the files on ext4, in `/data`. */
export const NAMES = Array.from({ length: FILES }, (_, index) => `file-${index}.bin`);

/** Files that will be on ext4, with another content for those with these numbers. */
export async function changeFiles(folder: string, which: readonly number[]): Promise<void> {
  await mkdir(join(folder, 'data'), { recursive: true });
  for (const index of which)
    await writeFile(join(folder, 'data', `file-${index}.bin`), randomBytes(20_000 + 1000 * index));
}

export async function writeTable(lab: Scenario, disk: string): Promise<void> {
  const raw = join(lab.dir, 'table.raw');
  await run('truncate', ['-s', String(96 * MiB), raw]);
  const lines = PARTITIONS.map(({ offset, size }) => `start=${offset / 512},size=${size / 512}\\n`).join('');
  await run('sh', ['-c', `printf 'label: gpt\\n${lines}' | sfdisk --quiet "$0"`, raw]);
  await run('truncate', ['-s', String(MiB), raw]);
  await writeRange(lab.vm, disk, { offset: 0, length: MiB, file: raw });
}

/** An ext4 image of a folder's files. */
export async function ext4Of(folder: string, image: string, more: readonly string[] = []): Promise<void> {
  await rm(image, { force: true });
  await run('mke2fs', ['-q', '-t', 'ext4', ...more, '-d', folder, image, `${PARTITIONS[0].size / MiB}M`]);
}

/** Puts an image onto a partition, as a guest would write it. */
export async function writePartition(lab: Scenario, disk: string, number: 1 | 2 | 3, image: string): Promise<void> {
  const { offset, size } = PARTITIONS[number - 1]!;
  await run('truncate', ['-s', String(size), image]);
  await writeRange(lab.vm, disk, { offset, length: size, file: image });
}

export async function sumOf(path: string): Promise<string> {
  return createHash('sha256')
    .update(await readFile(path))
    .digest('hex');
}
