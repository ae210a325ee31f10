/** Eight disks of 1 GiB at once, against eight bare jobs at once. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { bareJobs } from '../bare-jobs.js';
import { against, type Case, GiB, ofEachProgram, timed } from '../case.js';
import { removeBitmaps, startVm } from '../disks.js';
import { runProgram } from '../programs.js';

const DISKS = Array.from({ length: 8 }, (_, index) => ({ id: `d${index}`, size: GiB, data: GiB }));
/** Of the speed of the bare jobs. */
const SHARE = 0.9;

export const eightDisks: Case = {
  name: 'eight-disks',
  idea: 'FULL --no-digest of 8 disks of 1 GiB at once, against 8 bare jobs at once',
  unit: 'ms',
  limit: { by: 'times', atMost: 1 / SHARE },
  bytes: () => 16.1 * GiB,
  unasked: ['memory'],
  prepare: async (bench, unwind) => {
    const vm = await startVm(bench.dir, 'vm', DISKS, unwind);
    const target = join(bench.dir, 'target');
    const programs = await ofEachProgram(bench, (program) =>
      Promise.resolve(async () => {
        const backup = ['backup', '--level', 'full', '--no-digest', '--target', target];
        const ms = await timed(() => runProgram(program, ['--socket', vm.socket, ...backup]));
        await rm(target, { recursive: true });
        await removeBitmaps(vm);
        return ms;
      }),
    );
    return [...programs, against('8 bare jobs', () => bareJobs(vm, bench.dir, 'full'))];
  },
};
