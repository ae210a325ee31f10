import { readdir, readFile, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { expect, it } from 'vitest';
import { Unwind } from '../../src/flow/unwind.js';
import { beginImage } from '../../src/operations/restore/image-under-way.js';
import { copyChain, defaultCopyDeps } from '../../src/operations/restore/standalone-copy.js';
import { nbdUri } from '../../src/core/nbd-uri.js';
import { chooseMountpoint } from '../../src/storage-daemon/fuse-mount.js';
import { startStorageDaemon } from '../../src/storage-daemon/daemon.js';
import { openBytes } from '../../src/storage-daemon/open-bytes.js';
import { makeLab } from '../support/chains.js';
import { run } from '../support/lab/programs.js';
import { LONG_SIZE, type LongChain, makeLongChain } from '../support/long-chain.js';

async function longChain(files: number): Promise<LongChain> {
  return makeLongChain((await makeLab()).root, files);
}

it('opens a chain that is too long for one daemon, and each of its bytes is right', async () => {
  const { paths, flat } = await longChain(1100);
  const { signal } = new AbortController();
  const started = performance.now();
  const bytes = await openBytes([{ disk: 'd 1', paths }], { what: 'a test', signal });
  try {
    const address = await bytes.serveNbd();
    expect(performance.now() - started).toBeLessThan(60_000);
    await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', nbdUri({ address, exportName: 'd 1' }), flat]);
    const mountpoint = join(dirname(flat), 'mnt');
    const { files } = await bytes.serveFuse(await chooseMountpoint(mountpoint));
    expect(files).toEqual([{ disk: 'd 1', path: join(mountpoint, 'd 1.raw') }]);
    await run('cmp', [join(mountpoint, 'd 1.raw'), flat]);
    await bytes.close();
    await expect(readdir(mountpoint)).rejects.toThrow('ENOENT');
  } finally {
    await bytes.close();
  }
});

it('does not grow with the disk: many files share what they may keep of their tables', async () => {
  const { paths, flat } = await makeLongChain((await makeLab()).root, 300, { size: 2 ** 42 });
  const { signal } = new AbortController();
  const bytes = await openBytes([{ disk: 'd1', paths }], { what: 'a test', signal });
  try {
    const address = await bytes.serveNbd();
    const folder = address.kind === 'unix' ? dirname(address.path) : '';
    const { stdout } = await run('pgrep', ['-f', `qemu-storage-daemon .*${folder}`]);
    const status = await readFile(`/proc/${stdout.trim()}/status`, 'utf8');
    expect(Number(/VmSize:\s+(\d+) kB/.exec(status)?.[1]) / 1024).toBeLessThan(4096);
    await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', nbdUri({ address, exportName: 'd1' }), flat]);
  } finally {
    await bytes.close();
  }
});

it('says in words of QEMU which file cannot be opened', async () => {
  const { paths } = await longChain(3);
  await writeFile(paths[1] ?? '', 'no image');
  const opened = openBytes([{ disk: 'd1', paths }], { what: 'a test', signal: new AbortController().signal });
  await expect(opened).rejects.toThrow(/INC-10001.qcow2 cannot be opened: .*not in qcow2 format/);
});

it('copies a chain that is too long for a view', async () => {
  const { paths, flat } = await longChain(750);
  const dir = dirname(flat);
  const line = paths.map((path, index) => ({
    ...{ file: basename(path), parent: index === 0 ? null : basename(paths[index - 1] ?? '') },
    virtualSize: LONG_SIZE,
  }));
  const target = join(dir, 'copy.qcow2');
  const { signal } = new AbortController();
  const options = { signal, onProgress: () => undefined, verify: true, proved: false };
  const source = { dir: dirname(paths[0] ?? ''), line };
  const image = { path: target, format: 'qcow2', replaces: false } as const;
  const underWay = await beginImage(image, source, { what: 'a test', breakLock: false }, new Unwind());
  await copyChain(source, image, underWay, options, defaultCopyDeps);
  await run('qemu-img', ['compare', '-f', 'qcow2', '-F', 'raw', `${target}.partial`, flat]);
});

it('starts each time and complains of nothing, also several at once', async () => {
  const { signal } = new AbortController();
  for (let round = 0; round < 25; round += 1) {
    const starts = Array.from({ length: 4 }, () => startStorageDaemon({ what: 'a test', signal }));
    const daemons = await Promise.all(starts);
    const words = daemons.map((daemon) => daemon.words());
    for (const daemon of daemons) await daemon.close();
    expect(words).toEqual(['', '', '', '']);
  }
});
