/** 64 MiB of increments merged into a FULL of 1.5 GiB, against what everybody's programs take, with reflinks and without. */
import { mkdir, readdir, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { type Unwind, unwinding } from '../../../src/flow/unwind.js';
import { syncFile } from '../../../src/host/durable.js';
import { write } from '../../../test/support/lab/guest-writes.js';
import { against, type Bench, type Case, GiB, MiB, timed } from '../case.js';
import { startVm } from '../disks.js';
import { merging, onCopy } from '../merge-target.js';
import { NotHere } from '../place.js';
import { runProgram } from '../programs.js';

const DISK = { id: 'disk', size: 1.5 * GiB, data: 1.5 * GiB };
const INCREMENTS = 2;
const CHANGED = 32 * MiB;
const CHAIN = DISK.data + INCREMENTS * CHANGED + 64 * MiB;

const CONSOLIDATE = (target: string): readonly string[] => ['consolidate', '--target', target, '--keep', '1'];

export const consolidateCopied: Case = {
  name: 'consolidate-copied',
  idea: 'consolidate of INCs of 64 MiB into a FULL of 1.5 GiB, without reflinks, against cp of the FULL',
  unit: 'ms',
  limit: { by: 'times', atMost: 1.1 },
  // The chain, its copy and the new FULL.
  bytes: () => 3 * CHAIN,
  unasked: ['memory', 'disk'],
  prepare: async (bench) => {
    const target = await makeTarget(bench, bench.dir);
    const { folder, full } = await filesIn(target);
    const copy = join(bench.dir, 'copy.qcow2');
    return [
      ...(await merging(bench, { target, copies: bench.dir }, CONSOLIDATE)),
      against('cp', async () => {
        const ms = await timed(async () => {
          await execa('cp', ['--reflink=never', join(folder, full), copy]);
          await syncFile(copy);
        });
        await rm(copy);
        return ms;
      }),
    ];
  },
};

export const consolidateReflinked: Case = {
  name: 'consolidate-reflinked',
  idea: 'the same on XFS with reflinks, against qemu-img commit of the INCs into the FULL',
  unit: 'ms',
  limit: { by: 'times', atMost: 1.3 },
  bytes: () => 3 * CHAIN,
  unasked: ['memory'],
  prepare: async (bench, unwind) => {
    const dir = await mountXfs(bench.dir, 3 * CHAIN, unwind);
    const target = await makeTarget(bench, dir);
    return [
      ...(await merging(bench, { target, copies: dir }, CONSOLIDATE)),
      against('qemu-img commit', () =>
        onCopy(target, dir, async (copied) => {
          const { folder, full, newest } = await filesIn(copied);
          return timed(async () => {
            await execa('qemu-img', ['commit', '-q', '-d', '-b', full, newest], { cwd: folder });
            await syncFile(join(folder, full));
          });
        }),
      ),
    ];
  },
};

/** By the first of the programs, for all of them. The VM is gone, and so is its disk. */
async function makeTarget({ dir: scratch, programs }: Bench, dir: string): Promise<string> {
  const target = join(dir, 'target');
  const [program] = programs;
  if (!program) throw new Error('there is no program to measure');
  await unwinding(async (unwind) => {
    const vm = await startVm(scratch, 'vm', [DISK], unwind);
    unwind.defer(() => rm(vm.disk(DISK.id).file ?? ''));
    for (let n = 0; n <= INCREMENTS; n += 1) {
      if (n > 0) await write(vm, DISK.id, { offset: n * CHANGED, length: CHANGED, pattern: n });
      await runProgram(program, ['--socket', vm.socket, 'backup', '--target', target]);
    }
  });
  return target;
}

async function filesIn(
  target: string,
): Promise<{ readonly folder: string; readonly full: string; readonly newest: string }> {
  const folder = join(target, DISK.id);
  const images = (await readdir(folder)).filter((file) => file.endsWith('.qcow2')).toSorted();
  const [full = '', ...increments] = images;
  return { folder, full, newest: increments.at(-1) ?? '' };
}

/** A file system of its own, in a file. */
async function mountXfs(dir: string, bytes: number, unwind: Unwind): Promise<string> {
  if (process.getuid?.() !== 0) throw new NotHere('only root can mount a file system with reflinks');
  const [file, folder] = [join(dir, 'xfs'), join(dir, 'mounted')];
  await mkdir(folder);
  await writeFile(file, '');
  await truncate(file, bytes);
  const made = await execa('mkfs.xfs', ['-q', '-m', 'reflink=1', file], { reject: false });
  if (made.exitCode !== 0) throw new NotHere(`mkfs.xfs makes no file system: ${made.stderr || made.shortMessage}`);
  await execa('mount', ['-o', 'loop', file, folder]);
  unwind.defer(async () => {
    await execa('umount', ['--lazy', folder]);
  });
  return folder;
}
