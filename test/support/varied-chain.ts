import { randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { MiB } from './builders.js';
import { type Lab, makeDisk, makeLab, pointsOf, record, withPieceList } from './chains.js';

/** Of the disk, in MiB. */
export const VARIED_SIZE = 24;

export const VARIED_FILES = ['FULL-100.qcow2', 'INC-101.qcow2', 'INC-102.qcow2'] as const;

/**
 * A disk with data that cannot be told from other data by its place, compressed data, zeros, and what was written over. `written`: where
 * the first and the second increment have data, `3M 5M`.
 */
export async function variedChain(written: readonly [string, string]): Promise<Lab> {
  const lab = await makeLab();
  const content = join(lab.root, 'content');
  await writeFile(content, randomBytes(12 * MiB));
  const [full, first, second] = VARIED_FILES;
  const size = VARIED_SIZE;
  const data = (place: string): string => `write -s ${content} ${place}`;
  const entries = await makeDisk(lab, 'vda', [
    { file: full, size, io: [data('0 12M'), data('16M 6M')] },
    { file: first, on: full, size, io: ['write -z 1M 1M', data(written[0]), 'write -c -P 5 9M 64k'] },
    { file: second, on: first, size, io: [data(written[1]), 'write -z 4M 64k', 'write -P 7 9984k 4k'] },
  ]);
  await record(lab, pointsOf(await Promise.all(entries.map((each) => withPieceList(lab, each)))));
  return lab;
}
