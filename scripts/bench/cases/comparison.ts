/** A disk that no bitmap tells of, which is compared with its newest file, against a comparison of the two by qemu-img. */
import { randomBytes } from 'node:crypto';
import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { against, beside, type Case, GiB, MiB, ofEachProgram, timed } from '../case.js';
import { runProgram } from '../programs.js';

const DATA = 2 * GiB;
const CHANGED = { offset: 512 * MiB, length: 16 * MiB };

export const comparison: Case = {
  name: 'comparison',
  idea: 'INC by comparison of a raw disk of 2 GiB, 16 MiB of it changed, against qemu-img compare of its export and the parent, unchanged',
  unit: 'ms',
  limit: { by: 'times', atMost: 1.3 },
  bytes: ({ programs }) => (programs + 1.2) * DATA,
  unasked: ['memory'],
  prepare: async (bench, unwind) => {
    const disk = join(bench.dir, 'disk.raw');
    await execa('dd', ['if=/dev/urandom', `of=${disk}`, 'bs=1M', `count=${DATA / MiB}`, 'status=none']);
    let parent = '';
    const programs = await ofEachProgram(bench, async (program) => {
      const [base, target] = [join(bench.dir, `base-${program.role}`), join(bench.dir, `target-${program.role}`)];
      const backup = (into: string): Promise<string> =>
        runProgram(program, ['--json', 'backup', '--offline', `d1=raw:${disk}`, '--target', into, '--reserve', '0']);
      const full = (JSON.parse(await backup(base)) as Answer).point.disks[0]?.file ?? '';
      if (program.role === 'this') parent = join(base, 'd1', full);
      return async () => {
        // By links: nothing in a target is written over.
        await execa('cp', ['--archive', '--link', base, target]);
        const before = await exchange(disk, randomBytes(CHANGED.length));
        const ms = await timed(() => backup(target));
        await exchange(disk, before);
        await rm(target, { recursive: true });
        return ms;
      };
    });
    // A disk is read over NBD, as that of a VM can only be.
    const socket = join(bench.dir, 'nbd');
    const server = execa('qemu-nbd', ['-r', '-t', '-f', 'raw', '-k', socket, disk], { reject: false });
    unwind.defer(async () => {
      server.kill();
      await server;
    });
    const compare = (from: string) => () =>
      timed(() => execa('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', from, parent]));
    return [
      ...programs,
      against('qemu-img compare', compare(`nbd+unix:///?socket=${socket}`)),
      beside('of the files themselves', compare(disk)),
    ];
  },
};

interface Answer {
  readonly point: { readonly disks: readonly { readonly file: string }[] };
}

/** @returns what was there */
async function exchange(disk: string, bytes: Buffer): Promise<Buffer> {
  const file = await open(disk, 'r+');
  try {
    const before = Buffer.alloc(CHANGED.length);
    await file.read(before, 0, CHANGED.length, CHANGED.offset);
    await file.write(bytes, 0, CHANGED.length, CHANGED.offset);
    return before;
  } finally {
    await file.close();
  }
}
