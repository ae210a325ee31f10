import { execa } from 'execa';
import { once } from 'node:events';
import { mkdir, open, readdir, rename, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { ensureBuilt } from '../support/built.js';
import { expectSame, photograph } from '../support/chains.js';
import { expectCli } from '../support/cli.js';
import { run } from '../support/lab/programs.js';
import { patient } from '../support/patience.js';
import { scratchFolders } from '../support/scratch-folder.js';

/** Chains of overlays, as external snapshots leave them, become chains here, each image a point. */
beforeAll(ensureBuilt, patient(180_000));
const scratch = scratchFolders();

interface Image {
  readonly path: string;
  /** Raw; the disk as of this image. */
  readonly flat: string;
}

interface Overlay {
  readonly at: string;
  readonly io: readonly string[];
  readonly options?: readonly string[];
  /** MiB. */
  readonly size?: number;
}

const BASE = 16;

/** A raw base and overlays above it, with a flat copy of each, all in folders of `root`. */
async function makeImages(root: string, overlays: readonly Overlay[]): Promise<readonly Image[]> {
  const base = join(root, 'images/base/base.raw');
  await mkdir(join(root, 'images/base'), { recursive: true });
  await run('qemu-img', ['create', '-q', '-f', 'raw', base, `${BASE}M`]);
  await run('qemu-io', ['-f', 'raw', '-c', 'write -P 1 0 9M', base]);
  const images: Image[] = [await flatten(root, base, 'raw', 0)];
  for (const [index, { at, io, options = [], size }] of overlays.entries()) {
    const path = join(root, 'images', at);
    await mkdir(join(path, '..'), { recursive: true });
    const below = images.at(-1)?.path ?? '';
    const link = ['-b', below, '-F', index === 0 ? 'raw' : 'qcow2'];
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', ...link, ...options, path, ...(size ? [`${size}M`] : [])]);
    await run('qemu-io', [...io.flatMap((command) => ['-c', command]), path]);
    await utimes(path, 1_700_000_000 + index * 3600, 1_700_000_000 + index * 3600);
    images.push(await flatten(root, path, 'qcow2', index + 1));
  }
  return images;
}

async function flatten(root: string, path: string, format: string, index: number): Promise<Image> {
  const flat = join(root, `flat-${index}.raw`);
  await run('qemu-img', ['convert', '-f', format, '-O', 'raw', path, flat]);
  return { path, flat };
}

const FIVE: readonly Overlay[] = [
  { at: 'one/snap.qcow2', io: ['write -P 2 1M 100k', 'write -z 3M 1M', 'discard 5M 1M'] },
  { at: 'two/snap2.qcow2', io: ['write -P 3 1M 512', 'write -P 3 8M 3M'], options: ['-o', 'cluster_size=2M'] },
  { at: 'two/grown.qcow2', io: ['write -P 4 20M 64k', 'write -z 0 64k'], size: 24 },
  { at: 'two/packed.qcow2', io: ['write -c -P 5 2M 64k', 'write -P 5 23M 1M'] },
  { at: 'top.qcow2', io: ['write -P 6 12345 70000', 'discard 8M 1M'], options: ['-o', 'extended_l2=on'] },
];

async function expectPoints(root: string, target: string, images: readonly Image[], disk: string): Promise<void> {
  for (const [number, { flat }] of images.entries()) {
    const output = join(root, `restored-${number}`);
    await expectCli(0, ['restore', '--target', target, '--output', output, '--point', `${number}`]);
    await expectSame(join(output, `${disk}.qcow2`), flat);
  }
}

it(
  'a chain of five overlays above a raw base becomes six points, in whatever order and place they are',
  async () => {
    const root = await scratch();
    const images = await makeImages(root, FIVE);
    const before = await photograph(join(root, 'images'));
    const target = join(root, 'target');
    const shuffled = [3, 0, 5, 2, 4, 1].map((index) => images[index]?.path ?? '');
    const importing = [
      'import',
      '--from',
      'images',
      ...shuffled,
      '--target',
      target,
      '--vm-name',
      'vm',
      '--disk',
      'vda',
    ];
    const foreseen = (await expectCli(0, ['--json', ...importing, '--dry-run'])).json<{
      points: { level: string }[];
    }>();
    expect(foreseen.points.map(({ level }) => level)).toEqual(['full', 'inc', 'inc', 'inc', 'inc', 'inc']);
    await expectCli(0, importing);
    await expectPoints(root, target, images, 'vda');
    expect(await photograph(join(root, 'images'))).toEqual(before);
    // An increment has what its image has: of the first one a cluster or two of data, and zeros.
    const incs = (await readdir(join(target, 'vda'))).filter((name) => name.startsWith('INC')).toSorted();
    expect((await stat(join(target, 'vda', incs[0] ?? ''))).size).toBeLessThan(MiB);
    const listed = (await expectCli(0, ['--json', 'list', '--target', target])).stdout;
    expect(listed).toContain('"createdAt": "2023-11-14T22:13:20.000Z"');
    await expectCli(0, ['verify', '--target', target, '--read-data']);
    await expectCli(0, ['consolidate', '--target', target, '--keep', '2']);
    const output = join(root, 'consolidated');
    await expectCli(0, ['restore', '--target', target, '--output', output]);
    await expectSame(join(output, 'vda.qcow2'), images.at(-1)?.flat ?? '');
  },
  patient(180_000),
);

it(
  'chains of two disks become points of both, each named by any of its images',
  async () => {
    const root = await scratch();
    const overlays: readonly Overlay[] = [
      { at: 'one.qcow2', io: ['write -P 2 1M 100k'] },
      { at: 'two.qcow2', io: ['write -P 3 2M 100k', 'write -z 0 1M'] },
    ];
    const disks = [];
    for (const [index, id] of ['vda', 'vdb'].entries()) {
      const folder = join(root, id);
      await mkdir(folder);
      const own = overlays.map(({ at, io }) => ({ at, io: [...io, `write -P ${50 + index} 7M 64k`] }));
      disks.push({ id, folder, images: await makeImages(folder, own) });
    }
    const target = join(root, 'target');
    const [vda, vdb] = disks.map(({ images }) => images.map(({ path }) => path));
    const importing = ['import', '--from', 'images', ...(vdb ?? []), ...(vda ?? []), '--target', target];
    const name = (id: string, file: string | undefined): readonly string[] => ['--disk', `${id}=${file}`];
    await expectCli(13, importing);
    await expectCli(13, [...importing, '--disk', 'vda']);
    await expectCli(13, [...importing, ...name('vda', vda?.[2])]);
    await expectCli(2, [...importing, ...name('vda', vda?.[2]), ...name('vdb', vda?.[1])]);
    await expectCli(2, [...importing, ...name('vda', vda?.[2]), ...name('vdb', join(root, 'none'))]);
    await expectCli(2, [...importing, ...name('vda', vda?.[2]), '--disk', 'vdb']);
    const uneven = importing.filter((path) => path !== vdb?.[2]);
    await expectCli(13, [...uneven, ...name('vda', vda?.[2]), ...name('vdb', vdb?.[1])]);
    expect(await readdir(root)).not.toContain('target');
    await expectCli(0, [...importing, '--vm-name', 'vm', ...name('vda', vda?.[2]), ...name('vdb', vdb?.[0])]);
    for (const number of [0, 1, 2]) {
      const output = join(root, `restored-${number}`);
      await expectCli(0, ['restore', '--target', target, '--output', output, '--point', `${number}`]);
      for (const { id, images } of disks) {
        await expectSame(join(output, `${id}.qcow2`), images[number]?.flat ?? '');
      }
    }
    await expectCli(0, ['verify', '--target', target, '--read-data']);
  },
  patient(180_000),
);

it(
  'images that were moved are known by name, and others are not taken for them',
  async () => {
    const root = await scratch();
    const images = await makeImages(root, FIVE.slice(0, 3));
    const moved = join(root, 'moved');
    await mkdir(moved);
    const names = images.map(({ path }) => path.slice(path.lastIndexOf('/') + 1));
    for (const [index, { path }] of images.entries()) await rename(path, join(moved, names[index] ?? ''));
    const paths = names.map((name) => join(moved, name));
    const importing = (...files: readonly string[]): string[] => [
      ...['import', '--from', 'images', ...files, '--vm-name', 'vm', '--target', join(root, 'target')],
    ];
    const gap = await expectCli(13, importing(...paths.filter((_, index) => index !== 1)));
    expect(gap.stderr).toContain('which was not given');
    const other = join(root, 'snap3.qcow2');
    await run('qemu-img', ['create', '-q', '-u', '-f', 'qcow2', '-b', paths[1] ?? '', '-F', 'qcow2', other, '16M']);
    const fork = await expectCli(13, importing(...paths, other));
    expect(fork.stderr).toContain('both build on');
    const apart = join(root, 'apart.qcow2');
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', apart, '16M']);
    expect((await expectCli(13, importing(...paths, apart))).stderr).toContain('build on nothing');
    await expectCli(2, importing(...paths, paths[0] ?? ''));
    const inUse = { driver: 'qcow2', file: { driver: 'file', filename: paths.at(-1) }, backing: null };
    const writer = execa('qemu-io', [`json:${JSON.stringify(inUse)}`], { reject: false });
    await once(writer.stdout, 'data');
    expect((await expectCli(13, importing(...paths))).stderr).toContain('is in use');
    writer.stdin.end('quit\n');
    await writer;
    expect(await readdir(root)).not.toContain('target');
    await expectCli(0, importing(...paths));
    await expectPoints(root, join(root, 'target'), images, 'base');
  },
  patient(180_000),
);

it(
  'a raw base is raw, whatever a guest has written to its beginning, and a chain may shrink',
  async () => {
    const root = await scratch();
    const base = join(root, 'base.img');
    const decoy = join(root, 'secret.raw');
    await run('qemu-img', ['create', '-q', '-f', 'raw', decoy, '4M']);
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', decoy, '-F', 'raw', base, '4M']);
    const handle = await open(base, 'r+');
    await handle.truncate(4 * MiB);
    await handle.close();
    const overlay = join(root, 'small.qcow2');
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw', overlay, '2M']);
    await run('qemu-io', ['-c', 'write -P 9 1M 64k', overlay]);
    const images = [await flatten(root, base, 'raw', 0), await flatten(root, overlay, 'qcow2', 1)];
    const target = join(root, 'target');
    await expectCli(0, ['import', '--from', 'images', overlay, base, '--vm-name', 'vm', '--target', target]);
    await expectPoints(root, target, images, 'base');
  },
  patient(120_000),
);
