/** How fast every byte is proved, against what reads and hashes them by one program of everybody's. */
import { join } from 'node:path';
import { execa } from 'execa';
import { against, type Case, ofEachProgram, type Program, timed } from '../case.js';
import { DISK, makeChain } from '../chain.js';
import { runProgram } from '../programs.js';

export const verifyRead: Case = {
  name: 'verify-read',
  idea: 'verify --read-data of FULL of 3 GiB and 2 INC, against sha256sum of the same files',
  unit: 'ms',
  // 1.5 times its speed.
  limit: { by: 'times', atMost: 0.67 },
  bytes: ({ programs }) => (programs + 1.2) * DISK.data,
  unasked: ['memory'],
  prepare: async (bench) => {
    const targets = new Map<Program['role'], string>();
    const programs = await ofEachProgram(bench, async (program) => {
      const target = join(bench.dir, `target-${program.role}`);
      targets.set(program.role, target);
      await makeChain(program, bench.dir, target);
      return () => timed(() => runProgram(program, ['verify', '--target', target, '--read-data']));
    });
    const files = `${targets.get('this') ?? ''}/${DISK.id}/*.qcow2`;
    return [...programs, against('sha256sum', () => timed(() => execa('sh', ['-c', `sha256sum ${files}`])))];
  },
};
