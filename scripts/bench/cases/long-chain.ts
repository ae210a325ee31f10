/** Whether a run takes longer as the chain grows: run 500 and those after it, against those from run 5 on of another chain. */
import { join } from 'node:path';
import type { Unwind } from '../../../src/flow/unwind.js';
import { against, type Bench, type Case, GiB, MiB, ofEachProgram, type Program, type Take, timed } from '../case.js';
import { change, startVm } from '../disks.js';
import { runProgram } from '../programs.js';

const DISKS = ['d1', 'd2'].map((id) => ({ id, size: 64 * MiB, data: 0 }));
const CHANGED = 64 * 1024;
const LONG = 500;
const SHORT = 5;

export const run500: Case = {
  name: 'run-500',
  idea: 'INC of 64 KiB at run 500 of a chain, against run 5 of another one; takes minutes to prepare',
  unit: 'ms',
  limit: { by: 'times', atMost: 1.1 },
  bytes: ({ programs }) => programs * GiB,
  unasked: [],
  turns: 4,
  prepare: async (bench, unwind) => {
    const programs = await ofEachProgram(bench, (program) => chainUpTo(LONG, program, bench, unwind));
    const [program] = bench.programs;
    if (!program) throw new Error('there is no program to measure');
    return [...programs, against(`run ${SHORT}`, await chainUpTo(SHORT, program, bench, unwind))];
  },
};

/** The next run is the one with this number. */
async function chainUpTo(number: number, program: Program, { dir }: Bench, unwind: Unwind): Promise<Take> {
  const name = `${program.role}-${number}`;
  const vm = await startVm(dir, name, DISKS, unwind);
  const backup = ['--socket', vm.socket, 'backup', '--level', 'auto', '--target', join(dir, `target-${name}`)];
  const take = async (): Promise<number> => {
    for (const { id } of DISKS) await change(vm, id, CHANGED);
    return timed(() => runProgram(program, backup));
  };
  for (let run = 1; run < number; run += 1) await take();
  return take;
}
