/** A FULL of a disk of 3 GiB that is full of random data, against the bare job. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { bareJobs } from '../bare-jobs.js';
import { against, beside, type Bench, type Case, GiB, type Measure, ofEachProgram, timed } from '../case.js';
import { removeBitmaps, startVm } from '../disks.js';
import { peakMemory } from '../peak-memory.js';
import { convert, peerOf, runProgram } from '../programs.js';

const DATA = 3 * GiB;

export const full: Case = {
  name: 'full',
  idea: 'FULL of 3 GiB as by default, with its digest, against the bare job',
  unit: 'ms',
  limit: { by: 'times', atMost: 1.6 },
  bytes: () => 2.1 * DATA,
  unasked: ['memory', 'disk'],
  prepare: (bench, unwind) => ofFull(bench, [], unwind),
};

export const fullNoDigest: Case = {
  ...full,
  name: 'full-no-digest',
  idea: 'FULL of 3 GiB --no-digest, against the bare job',
  limit: { by: 'times', atMost: 1.25 },
  prepare: (bench, unwind) => ofFull(bench, ['--no-digest'], unwind),
};

export const fullMemory: Case = {
  ...full,
  name: 'full-memory',
  idea: 'the most memory of a FULL of 3 GiB, with all that the program starts',
  unit: 'MiB',
  limit: { by: 'itself', atMost: null },
  unasked: ['memory'],
  prepare: async (bench, unwind) => {
    const vm = await startVm(bench.dir, 'vm', [{ id: 'disk', size: DATA, data: DATA }], unwind);
    const target = join(bench.dir, 'target');
    return ofEachProgram(bench, (program) =>
      Promise.resolve(async () => {
        const peak = await peakMemory(program, ['--socket', vm.socket, ...backupTo(target)]);
        await rm(target, { recursive: true });
        await removeBitmaps(vm);
        return peak;
      }),
    );
  },
};

async function ofFull(
  bench: Bench,
  how: readonly string[],
  unwind: Parameters<Case['prepare']>[1],
): Promise<readonly Measure[]> {
  const vm = await startVm(bench.dir, 'vm', [{ id: 'disk', size: DATA, data: DATA }], unwind);
  const target = join(bench.dir, 'target');
  const gone = async (ms: number): Promise<number> => {
    await rm(target, { recursive: true });
    await removeBitmaps(vm);
    return ms;
  };
  const peer = peerOf('vm', { socket: vm.socket });
  return [
    ...(await ofEachProgram(bench, (program) =>
      Promise.resolve(async () =>
        gone(await timed(() => runProgram(program, ['--socket', vm.socket, ...backupTo(target), ...how]))),
      ),
    )),
    against('the bare job', () => bareJobs(vm, bench.dir, 'full')),
    beside('qemu-img convert', async () => {
      const copy = join(bench.dir, 'copy.qcow2');
      const ms = await timed(() => convert(vm.disk('disk').file ?? '', copy, ['-U']));
      await rm(copy);
      return ms;
    }),
    ...(peer ? [beside('the other tool', async () => gone(await timed(() => peer.run('full', target))))] : []),
  ];
}

function backupTo(target: string): readonly string[] {
  return ['backup', '--level', 'full', '--target', target];
}
