import { readFile, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { expect, it } from 'vitest';
import { Unwind } from '../../src/flow/unwind.js';
import { beginImage } from '../../src/operations/restore/image-under-way.js';
import { copyChain, defaultCopyDeps } from '../../src/operations/restore/standalone-copy.js';
import { nbdUri } from '../../src/core/nbd-uri.js';
import { openBytes } from '../../src/storage-daemon/open-bytes.js';
import { makeDisk, makeLab } from '../support/chains.js';
import { run } from '../support/lab/programs.js';

const MiB = 1024 * 1024;

/** So many files, of which only the first and the last hold something: the links are written into copies of one header. */
async function longChain(files: number): Promise<{ readonly paths: readonly string[]; readonly flat: string }> {
  const lab = await makeLab();
  const name = (index: number): string => `INC-${10_000 + index}.qcow2`;
  const io = ['write -P 7 0 1M'];
  await makeDisk(lab, 'd1', [
    { file: name(0), io },
    { file: name(1), on: name(0), io: [] },
  ]);
  const paths = Array.from({ length: files }, (_, index) => join(lab.folder('d1'), name(index)));
  const empty = await readFile(join(lab.folder('d1'), name(1)), 'latin1');
  for (const [index, path] of paths.entries()) {
    if (index > 1) await writeFile(path, empty.replaceAll(name(0), name(index - 1)), 'latin1');
  }
  const flat = lab.flat('d1', 'all');
  await run('cp', [lab.flat('d1', name(0)), flat]);
  for (const [format, path] of [
    ['qcow2', paths.at(-1) ?? ''],
    ['raw', flat],
  ] as const) {
    const image =
      format === 'raw'
        ? ['-f', 'raw', path]
        : [`json:${JSON.stringify({ driver: 'qcow2', file: { driver: 'file', filename: path }, backing: null })}`];
    await run('qemu-io', ['-c', `write -P 9 ${3 * MiB} 64k`, ...image]);
  }
  return { paths, flat };
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
    virtualSize: 16 * MiB,
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
