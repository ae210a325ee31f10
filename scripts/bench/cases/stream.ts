/** The disk of a running VM as a tar on stdout, against what reads the same export and throws it away. */
import { execa } from 'execa';
import { withBareInstant } from '../bare-instant.js';
import { against, type Case, GiB, ofEachProgram, timed } from '../case.js';
import { startVm } from '../disks.js';
import { streamAway } from '../programs.js';

/** So much data that what the program takes to begin and to end (some 0.4 s) hardly counts. */
const DISK = { id: 'disk', size: 12 * GiB, data: 10 * GiB };

export const stream: Case = {
  name: 'stream',
  idea: 'backup --level copy --output - of a VM with 10 GiB into /dev/null, against nbdcopy of the same export into nothing',
  unit: 'ms',
  // 0.9 of its speed.
  limit: { by: 'times', atMost: 1.11 },
  bytes: () => 1.1 * DISK.data,
  unasked: ['memory'],
  prepare: async (bench, unwind) => {
    const vm = await startVm(bench.dir, 'vm', [DISK], unwind);
    const ours = await ofEachProgram(bench, (program) =>
      Promise.resolve(() =>
        timed(() => streamAway(program, ['--socket', vm.socket, 'backup', '--level', 'copy', '--output', '-'])),
      ),
    );
    const copied = (): Promise<number> =>
      withBareInstant(vm, DISK.id, (uri) => timed(() => execa('nbdcopy', [uri, 'null:'])));
    return [...ours, against('nbdcopy', copied)];
  },
};
