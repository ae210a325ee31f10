import { open, rm } from 'node:fs/promises';
import { run } from './lab/programs.js';
import type { BackupAnswer } from './scenario.js';

/** What tests of deltas by content ask of points and files, and do to them. */
const CLUSTER = 64 * 1024;

/** `vda inc by comparison`, of each disk. */
export function levelsOf({ point }: BackupAnswer): string[] {
  return point.disks.map(({ disk, level, compared }) => `${disk} ${level}${compared ? ' by comparison' : ''}`);
}

interface Mapped {
  readonly depth: number;
  readonly length: number;
  readonly present: boolean;
  readonly data: boolean;
  readonly zero: boolean;
}

/** Clusters of data and of zeros that a file itself has. */
export async function clustersIn(path: string): Promise<{ readonly data: number; readonly zero: number }> {
  const { stdout } = await run('qemu-img', ['map', '--output=json', path]);
  const own = (JSON.parse(stdout) as Mapped[]).filter(({ depth, present }) => depth === 0 && present);
  const sum = (of: readonly Mapped[]): number => of.reduce((all, { length }) => all + length, 0) / CLUSTER;
  return { data: sum(own.filter(({ data }) => data)), zero: sum(own.filter(({ data, zero }) => zero && !data)) };
}

/** Another bit in a file, which keeps its times. */
export async function rot(path: string, offset: number): Promise<void> {
  // To the nanosecond, which no call of Node's sets.
  const times = `${path}.times`;
  await run('touch', ['--reference', path, times]);
  const file = await open(path, 'r+');
  const { buffer } = await file.read(Buffer.alloc(1), 0, 1, offset);
  await file.write(Buffer.from([(buffer[0] ?? 0) ^ 1]), 0, 1, offset);
  await file.close();
  await run('touch', ['--reference', times, path]);
  await rm(times);
}
