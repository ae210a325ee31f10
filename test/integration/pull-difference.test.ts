import { randomBytes, randomInt } from 'node:crypto';
import { copyFile, mkdir, open, readFile, stat, truncate, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { pullDifference, type StoredDifference } from '../../src/backends/methods/pull-difference.js';
import { fileNode } from '../../src/core/block-node.js';
import { PIECE_BYTES } from '../../src/core/pieces.js';
import { createImage } from '../../src/host/empty-image.js';
import { startQemuNbd } from '../../src/qemu-tools/qemu-nbd.js';
import { openPoint, type OpenFile } from '../../src/repository/open-point.js';
import { ParentProver } from '../../src/repository/prove-parent.js';
import { healedStates, isHealed } from '../../src/repository/shadowed.js';
import { MiB } from '../support/builders.js';
import {
  describe as describeFile,
  type Lab,
  makeDisk,
  makeLab,
  pointsOf,
  record,
  withPieceList,
} from '../support/chains.js';
import { clustersIn, rot } from '../support/comparison.js';
import { run } from '../support/lab/programs.js';
import { VARIED_FILES, VARIED_SIZE, variedChain } from '../support/varied-chain.js';

/** What differs of a disk from a chain of three files, against a comparison of all bytes. */
const CLUSTER = 64 * 1024;
const { signal } = new AbortController();

interface Made {
  readonly lab: Lab;
  readonly chain: readonly OpenFile[];
  /** The disk, which begins as the newest of the chain. */
  readonly disk: string;
}

async function made(): Promise<Made> {
  const lab = await variedChain(['3M 3M', '17M 2M']);
  const { disks } = await openPoint(lab.target, {}, { look: 'catalog' });
  const disk = join(lab.root, 'disk.raw');
  await copyFile(lab.flat('vda', VARIED_FILES[2]), disk);
  return { lab, chain: disks[0]!.chain, disk };
}

async function change(disk: string, offset: number, bytes: Buffer): Promise<void> {
  const file = await open(disk, 'r+');
  await file.write(bytes, 0, bytes.length, offset);
  await file.close();
}

interface Foreign {
  /** Of `qemu-img create`. */
  readonly options?: string;
  /** Bytes. */
  readonly size: number;
  readonly io: readonly string[];
  /** What else qemu-img does with it. */
  readonly then?: (path: string) => readonly string[];
}

/** A FULL that another program has made, with two increments of ours; the disk is as the newest. */
async function foreign({ options, size, io, then }: Foreign): Promise<Made> {
  const lab = await makeLab();
  const folder = lab.folder('vda');
  await mkdir(folder, { recursive: true });
  const [full, ...newer] = VARIED_FILES;
  const path = join(folder, full);
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', ...(options ? ['-o', options] : []), path, String(size)]);
  await run('qemu-io', ['-f', 'qcow2', ...io.flatMap((command) => ['-c', command]), path]);
  if (then) await run('qemu-img', then(path));
  const entries = [await describeFile(lab, 'vda', { file: full, parent: null, virtualSize: size })];
  for (const [index, file] of newer.entries()) {
    await createImage(join(folder, file), { size, backing: VARIED_FILES[index]! });
    await run('qemu-io', ['-f', 'qcow2', '-c', `write -P 7 ${index + 1}M 64k`, join(folder, file)]);
    entries.push(await describeFile(lab, 'vda', { file, parent: VARIED_FILES[index]!, virtualSize: size }));
  }
  await record(lab, pointsOf(await Promise.all(entries.map((each) => withPieceList(lab, each)))));
  const { disks } = await openPoint(lab.target, {}, { look: 'catalog' });
  const disk = join(lab.root, 'disk.raw');
  await run('qemu-img', ['convert', '-O', 'raw', join(folder, VARIED_FILES[2]), disk]);
  return { lab, chain: disks[0]!.chain, disk };
}

/** Rots the FULL where it has what the disk has at `offset`: of the piece the disk's difference has all, and its state shows none. */
async function expectHealed(all: Made, offset: number): Promise<void> {
  const full = all.chain[0]!.path;
  const { stdout } = await run('qemu-img', ['map', '--output=json', full]);
  const extents = JSON.parse(stdout) as { start: number; length: number; offset?: number }[];
  const extent = extents.find(({ start, length }) => start <= offset && offset < start + length)!;
  const at = extent.offset! + offset - extent.start;
  await rot(full, at);
  const start = at - (at % PIECE_BYTES);
  const end = Math.min(start + PIECE_BYTES, (await stat(full)).size);
  const prover = await ParentProver.open(all.chain, signal);
  expect(await prover.whyUnusable()).toBeUndefined();
  await prover.close();
  const { path, healed } = await pulled(all);
  expect(healed).toMatchObject([{ file: VARIED_FILES[0] }]);
  await expectSame(path, all.disk);
  const { size: virtualSize } = await stat(all.disk);
  const before = all.chain.map((each) => ({ path: each.path, virtualSize }));
  expect(await isHealed(before, full, { ranges: [{ start, end }] })).toBe(false);
  expect(await isHealed([...before, { path, virtualSize }], full, { ranges: [{ start, end }] })).toBe(true);
}

let count = 200;

async function pulled(
  { lab, chain, disk }: Made,
  options: { readonly compress?: boolean } = {},
): Promise<StoredDifference & { readonly path: string }> {
  count += 1;
  const path = join(lab.folder('vda'), `INC-${count}.qcow2`);
  await createImage(path, { size: (await stat(disk)).size, backing: VARIED_FILES[2] });
  const server = await startQemuNbd({ node: { driver: 'raw', file: fileNode(disk) }, readOnly: true });
  try {
    const source = { address: { kind: 'unix' as const, path: server.socketPath }, exportName: '' };
    return { ...(await pullDifference({ source, chain, target: path }, { signal, ...options })), path };
  } finally {
    await server.kill();
  }
}

async function expectSame(path: string, disk: string): Promise<void> {
  const { exitCode, stdout } = await run('qemu-img', ['compare', '-F', 'raw', path, disk], { allowed: [0, 1] });
  expect({ exitCode, stdout }).toMatchObject({ exitCode: 0 });
  await run('qemu-img', ['check', path]);
}

/** By all bytes: how many clusters of two disks differ, of data and to zeros. */
async function differing(before: string, after: string): Promise<{ data: number; zero: number }> {
  const [a, b] = [await readFile(before), await readFile(after)];
  const found = { data: 0, zero: 0 };
  for (let at = 0; at < b.length; at += CLUSTER) {
    const [old, now] = [a.subarray(at, at + CLUSTER), b.subarray(at, at + CLUSTER)];
    const padded = Buffer.concat([old, Buffer.alloc(now.length - old.length)]);
    if (!padded.equals(now)) found[now.every((byte) => byte === 0) ? 'zero' : 'data'] += 1;
  }
  return found;
}

describe('what differs of a disk from its chain', () => {
  it.each([false, true])('is stored, and nothing else, at random (compressed: %s)', async (compress) => {
    const all = await made();
    const before = join(all.lab.root, 'before.raw');
    await copyFile(all.disk, before);
    for (let round = 0; round < 6; round += 1) {
      for (let times = randomInt(1, 12); times > 0; times -= 1) {
        const length = randomInt(1, randomInt(2) === 0 ? 1000 : 300_000);
        const bytes = randomInt(3) === 0 ? Buffer.alloc(length) : randomBytes(length);
        await change(all.disk, randomInt(VARIED_SIZE * MiB - length), bytes);
      }
      const found = await pulled(all, { compress });
      await expectSame(found.path, all.disk);
      const expected = await differing(before, all.disk);
      expect(await clustersIn(found.path)).toEqual(expected);
      expect(found).toMatchObject({ stored: (expected.data + expected.zero) * CLUSTER, healed: [] });
    }
  });

  it('is nothing of a disk that is the same', async () => {
    expect(await pulled(await made())).toMatchObject({ stored: 0, healed: [] });
  });

  it('is what lies beyond the end of the parent, of a disk that has grown by no whole cluster', async () => {
    const all = await made();
    await truncate(all.disk, VARIED_SIZE * MiB + 3 * CLUSTER + 512);
    await change(all.disk, VARIED_SIZE * MiB + 2 * CLUSTER + 5, Buffer.from('grown'));
    const { path, stored } = await pulled(all);
    expect(stored).toBe(CLUSTER);
    await expectSame(path, all.disk);
  });

  it('is found above a file whose disk ended inside of a cluster', async () => {
    const lab = await makeLab();
    const small = 8 + 512 / MiB;
    const entries = await makeDisk(lab, 'vda', [
      { file: VARIED_FILES[0], size: small, io: ['write -P 3 4M 4M', 'write -P 4 8M 512'] },
      { file: VARIED_FILES[1], on: VARIED_FILES[0], size: 9, io: ['write -P 5 8200k 4k'] },
      { file: VARIED_FILES[2], on: VARIED_FILES[1], size: 9, io: [] },
    ]);
    await record(lab, pointsOf(await Promise.all(entries.map((each) => withPieceList(lab, each)))));
    const { chain } = (await openPoint(lab.target, {}, { look: 'catalog' })).disks[0]!;
    const disk = join(lab.root, 'disk.raw');
    await copyFile(lab.flat('vda', VARIED_FILES[2]), disk);
    expect((await pulled({ lab, chain, disk })).stored).toBe(0);
    await change(disk, 8 * MiB + 600, Buffer.from('here'));
    const { path, stored } = await pulled({ lab, chain, disk });
    expect(stored).toBe(CLUSTER);
    await expectSame(path, disk);
  });

  it('is all that comes from a piece that has rotted, which the state then shows nothing of, and older ones do', async () => {
    const all = await made();
    const [full] = all.chain;
    // Of the third piece, where there is data alone.
    const at = 9 * MiB + randomInt(3 * MiB);
    await rot(full!.path, at);
    const damage = { ranges: [{ start: 8 * MiB, end: 12 * MiB }] };
    const placed = (paths: readonly string[]) => paths.map((path) => ({ path, virtualSize: VARIED_SIZE * MiB }));
    const paths = all.chain.map(({ path }) => path);
    expect(await isHealed(placed(paths), full!.path, damage)).toBe(false);
    const { path, stored, healed } = await pulled(all);
    expect(healed).toEqual([
      { file: VARIED_FILES[0], why: expect.stringContaining(`from byte ${8 * MiB} to ${12 * MiB - 1}`) as string },
    ]);
    // Less what newer files have of it.
    expect(stored).toBeGreaterThan(2 * MiB);
    expect(stored).toBeLessThanOrEqual(4 * MiB);
    await expectSame(path, all.disk);
    expect(await isHealed(placed([...paths, path]), full!.path, damage)).toBe(true);
    // With its tables the file is lost, whatever is above it.
    const tables = { ranges: [{ start: 0, end: 4 * MiB }] };
    expect(await isHealed(placed([...paths, path]), full!.path, tables)).toBe(false);
  });

  it.each([4096, 512 * 1024, 2 * MiB])('has all that had rotted in a file of clusters of %i bytes', async (cluster) => {
    const end = 10 * MiB + 3 * CLUSTER + 512;
    // All tables come first. Of each cluster of the new file the older one has not the beginning, where its own are smaller.
    const tables = Array.from({ length: 6 }, (_, each) => `write -P 9 ${2 * each}M 512`);
    const blocks = Array.from({ length: 96 }, (_, each) => `write -P ${each + 10} ${each * 64 + 4}k 60k`);
    const io = [...tables, ...blocks, `write -P 200 10308k ${end - 10_308 * 1024}`];
    const all = await foreign({ options: `cluster_size=${cluster}`, size: end, io });
    await expectHealed(all, 10_308 * 1024);
  });

  it('has all that had rotted in a file whose space was reserved, zeros that are holes in it too', async () => {
    const all = await foreign({
      options: 'preallocation=metadata',
      size: VARIED_SIZE * MiB,
      io: ['write -P 5 9M 64k'],
    });
    await expectHealed(all, 9 * MiB);
  });

  it.each([
    ['a snapshot', ['snapshot', '-c', 'before']],
    ['a bitmap', ['bitmap', '--add']],
  ])('is not told from a file with %s: it has tables that are not proved', async (_, [verb = '', ...options]) => {
    const io = ['write -P 5 0 12M'];
    const name = verb === 'bitmap' ? ['before'] : [];
    const all = await foreign({ size: VARIED_SIZE * MiB, io, then: (path) => [verb, ...options, path, ...name] });
    const prover = await ParentProver.open(all.chain, signal);
    expect(await prover.whyUnusable()).toMatchObject({ file: VARIED_FILES[0], fault: { code: 'no-image' } });
    await prover.close();
    const { path } = await pulled(all);
    const state = [...all.chain.map((each) => each.path), path].map((each) => ({
      path: each,
      virtualSize: VARIED_SIZE * MiB,
    }));
    expect(await isHealed(state, state[0]!.path, { ranges: [{ start: 8 * MiB, end: 12 * MiB }] })).toBe(false);
  });

  it('is told of all states at once: by what each newer file hides', async () => {
    const { lab, chain } = await foreign({ size: VARIED_SIZE * MiB, io: ['write -P 5 0 12M'] });
    const full = chain[0]!.path;
    const { catalog } = await openPoint(lab.target, {}, { look: 'catalog' });
    const { stdout } = await run('qemu-img', ['map', '--output=json', full]);
    const { offset } = (JSON.parse(stdout) as { offset: number }[])[0]!;
    const healedBy = async (...clusters: readonly number[]): Promise<readonly string[]> => {
      const ranges = clusters.map((mib) => ({ start: offset + mib * MiB, end: offset + mib * MiB + 1 }));
      const amiss = new Map([[`vda/${VARIED_FILES[0]}`, { code: 'damaged' as const, why: 'rotten', ranges }]]);
      return [...(await healedStates(lab.target, catalog, amiss))].map(([file, of]) => `${file} of ${[...of].join()}`);
    };
    const [, first, second] = VARIED_FILES.map((file) => `vda/${file} of ${VARIED_FILES[0]}`);
    expect(await healedBy(1)).toEqual([first, second]);
    expect(await healedBy(2)).toEqual([second]);
    expect(await healedBy(1, 2)).toEqual([second]);
    expect(await healedBy(1, 3)).toEqual([]);
    await unlink(chain[1]!.path);
    expect(await healedBy(2)).toEqual([second]);
    expect(await healedBy(1, 2)).toEqual([]);
  });

  it('heals nothing where a file that would have to tell is gone', async () => {
    const { chain } = await made();
    const state = chain.map(({ path }) => ({ path, virtualSize: VARIED_SIZE * MiB }));
    await unlink(chain[1]!.path);
    expect(await isHealed(state, chain[0]!.path, { ranges: [{ start: 8 * MiB, end: 12 * MiB }] })).toBe(false);
  });

  it('cannot be told where the tables of a file have rotted', async () => {
    const { chain } = await made();
    const whyUnusable = async () => {
      const prover = await ParentProver.open(chain, signal);
      try {
        return await prover.whyUnusable();
      } finally {
        await prover.close();
      }
    };
    expect(await whyUnusable()).toBeUndefined();
    await rot(chain[0]!.path, 3 * CLUSTER + 9);
    expect(await whyUnusable()).toMatchObject({ file: VARIED_FILES[0], fault: { code: 'damaged' } });
  });
});
