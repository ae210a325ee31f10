/** A compressed FULL of 1 GiB of files, against qemu-img's compression of the same disk. */
import { open, readdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { against, type Case, GiB, ofEachProgram, timed } from '../case.js';
import { removeBitmaps, startVmWith } from '../disks.js';
import { convert, runProgram } from '../programs.js';

/** Files that every machine has; they compress as most do. */
const FILES = '/usr';

export const compress: Case = {
  name: 'compress',
  idea: 'FULL --compress of 1 GiB of files, against qemu-img convert -c -W -m 16 with zstd',
  unit: 'ms',
  limit: { by: 'times', atMost: null },
  bytes: () => 3 * GiB,
  unasked: ['memory'],
  prepare: async (bench, unwind) => {
    const file = join(bench.dir, 'disk.qcow2');
    await diskOfFiles(file, join(bench.dir, 'raw'));
    const vm = await startVmWith(bench.dir, 'vm', [{ id: 'disk', file }], unwind);
    const target = join(bench.dir, 'target');
    const programs = await ofEachProgram(bench, (program) =>
      Promise.resolve(async () => {
        const backup = ['backup', '--level', 'full', '--compress', '--target', target];
        const ms = await timed(() => runProgram(program, ['--socket', vm.socket, ...backup]));
        await rm(target, { recursive: true });
        await removeBitmaps(vm);
        return ms;
      }),
    );
    return [
      ...programs,
      against('qemu-img convert -c', async () => {
        const copy = join(bench.dir, 'copy.qcow2');
        const how = ['-U', '-c', '-W', '-m', '16', '-o', 'compression_type=zstd'];
        const ms = await timed(() => convert(file, copy, how));
        await rm(copy);
        return ms;
      }),
    ];
  },
};

/** Where there is less than 1 GiB of files the rest is empty. */
async function diskOfFiles(file: string, raw: string): Promise<void> {
  const handle = await open(raw, 'w');
  try {
    let size = 0;
    for await (const path of filesIn(FILES)) {
      const content = (await readFile(path)).subarray(0, GiB - size);
      await handle.write(content);
      size += content.length;
      if (size === GiB) break;
    }
    await handle.truncate(GiB);
  } finally {
    await handle.close();
  }
  await execa('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, file]);
  await rm(raw);
}

/** Always in the same order; links are not followed. */
async function* filesIn(folder: string): AsyncGenerator<string> {
  const entries = await readdir(folder, { withFileTypes: true });
  for (const entry of entries.toSorted((a, b) => (a.name < b.name ? -1 : 1))) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) yield* filesIn(path);
    else if (entry.isFile() && (await stat(path)).size > 0) yield path;
  }
}
