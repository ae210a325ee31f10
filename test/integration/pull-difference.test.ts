import { randomBytes, randomInt } from 'node:crypto';
import { copyFile, open, readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { pullDifference, type StoredDifference } from '../../src/backends/methods/pull-difference.js';
import { fileNode } from '../../src/core/block-node.js';
import { createImage } from '../../src/host/empty-image.js';
import { startQemuNbd } from '../../src/qemu-tools/qemu-nbd.js';
import { openPoint, type OpenFile } from '../../src/repository/open-point.js';
import { ParentProver } from '../../src/repository/prove-parent.js';
import { isHealed } from '../../src/repository/shadowed.js';
import { MiB } from '../support/builders.js';
import { type Lab, makeDisk, makeLab, pointsOf, record, withPieceList } from '../support/chains.js';
import { clustersIn, rot } from '../support/comparison.js';
import { run } from '../support/lab/programs.js';

/** What differs of a disk from a chain of three files, against a comparison of all bytes. */
const SIZE = 24;
const CLUSTER = 64 * 1024;
const FILES = ['FULL-100.qcow2', 'INC-101.qcow2', 'INC-102.qcow2'] as const;
const { signal } = new AbortController();

interface Made {
  readonly lab: Lab;
  readonly chain: readonly OpenFile[];
  /** The disk, which begins as the newest of the chain. */
  readonly disk: string;
}

async function made(): Promise<Made> {
  const lab = await makeLab();
  const content = join(lab.root, 'content');
  await writeFile(content, randomBytes(12 * MiB));
  const [full, first, second] = FILES;
  const entries = await makeDisk(lab, 'vda', [
    { file: full, size: SIZE, io: [`write -s ${content} 0 12M`, `write -s ${content} 16M 6M`] },
    { file: first, on: full, size: SIZE, io: ['write -z 1M 1M', `write -s ${content} 3M 3M`, 'write -c -P 5 9M 64k'] },
    {
      file: second,
      on: first,
      size: SIZE,
      io: [`write -s ${content} 17M 2M`, 'write -z 4M 64k', 'write -P 7 9984k 4k'],
    },
  ]);
  await record(lab, pointsOf(await Promise.all(entries.map((each) => withPieceList(lab, each)))));
  const { disks } = await openPoint(lab.target, {}, { look: 'catalog' });
  const disk = join(lab.root, 'disk.raw');
  await copyFile(lab.flat('vda', second), disk);
  return { lab, chain: disks[0]!.chain, disk };
}

async function change(disk: string, offset: number, bytes: Buffer): Promise<void> {
  const file = await open(disk, 'r+');
  await file.write(bytes, 0, bytes.length, offset);
  await file.close();
}

let count = 200;

async function pulled(
  { lab, chain, disk }: Made,
  options: { readonly compress?: boolean } = {},
): Promise<StoredDifference & { readonly path: string }> {
  count += 1;
  const path = join(lab.folder('vda'), `INC-${count}.qcow2`);
  await createImage(path, { size: (await stat(disk)).size, backing: FILES[2] });
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
        await change(all.disk, randomInt(SIZE * MiB - length), bytes);
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
    await truncate(all.disk, SIZE * MiB + 3 * CLUSTER + 512);
    await change(all.disk, SIZE * MiB + 2 * CLUSTER + 5, Buffer.from('grown'));
    const { path, stored } = await pulled(all);
    expect(stored).toBe(CLUSTER);
    await expectSame(path, all.disk);
  });

  it('is found above a file whose disk ended inside of a cluster', async () => {
    const lab = await makeLab();
    const small = 8 + 512 / MiB;
    const entries = await makeDisk(lab, 'vda', [
      { file: FILES[0], size: small, io: ['write -P 3 4M 4M', 'write -P 4 8M 512'] },
      { file: FILES[1], on: FILES[0], size: 9, io: ['write -P 5 8200k 4k'] },
      { file: FILES[2], on: FILES[1], size: 9, io: [] },
    ]);
    await record(lab, pointsOf(await Promise.all(entries.map((each) => withPieceList(lab, each)))));
    const { chain } = (await openPoint(lab.target, {}, { look: 'catalog' })).disks[0]!;
    const disk = join(lab.root, 'disk.raw');
    await copyFile(lab.flat('vda', FILES[2]), disk);
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
    const placed = (paths: readonly string[]) => paths.map((path) => ({ path, virtualSize: SIZE * MiB }));
    const paths = all.chain.map(({ path }) => path);
    expect(await isHealed(placed(paths), full!.path, damage)).toBe(false);
    const { path, stored, healed } = await pulled(all);
    expect(healed).toEqual([
      { file: FILES[0], why: expect.stringContaining(`from byte ${8 * MiB} to ${12 * MiB - 1}`) as string },
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
    expect(await whyUnusable()).toMatchObject({ file: FILES[0], fault: { code: 'damaged' } });
  });
});
