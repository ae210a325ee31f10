/** Increments of 64 MiB and of nothing, against the least that a program for node takes. */
import { join } from 'node:path';
import type { Vm } from '../../../test/support/lab/qemu.js';
import { bareJobs, forgetChanges, recordChanges } from '../bare-jobs.js';
import { against, beside, type Case, GiB, MiB, ofEachProgram, timed } from '../case.js';
import { change, startVm } from '../disks.js';
import { emptyNode, peerIncrement, peerOf, runProgram } from '../programs.js';

const DISK = { id: 'disk', size: 4 * GiB, data: 64 * MiB };

export const increment: Case = incrementOf(64 * MiB, {
  name: 'increment',
  idea: 'INC of 64 MiB, against node -e 0',
  atMost: 4.6,
});

export const incrementOfNothing: Case = incrementOf(0, {
  name: 'increment-nothing',
  idea: 'INC of nothing, against node -e 0',
  atMost: 2.6,
});

/** Each program has a VM of its own: no bitmap of the one is work for the other. */
function incrementOf(
  changed: number,
  { name, idea, atMost }: Pick<Case, 'name' | 'idea'> & { readonly atMost: number },
): Case {
  return {
    name,
    idea,
    unit: 'ms',
    limit: { by: 'times', atMost },
    bytes: ({ programs, turns }) => (programs + 1) * (2 * DISK.data + (turns + 1) * (changed + MiB)),
    unasked: ['memory', 'disk'],
    turns: 3,
    prepare: async (bench, unwind) => {
      const changing = async (vm: Vm): Promise<void> => {
        if (changed > 0) await change(vm, DISK.id, changed);
      };
      const programs = await ofEachProgram(bench, async (program) => {
        const vm = await startVm(bench.dir, program.role, [DISK], unwind);
        const target = join(bench.dir, `target-${program.role}`);
        const backup = (level: string): Promise<string> =>
          runProgram(program, ['--socket', vm.socket, 'backup', '--level', level, '--target', target]);
        await backup('full');
        return async () => {
          await changing(vm);
          return timed(() => backup('inc'));
        };
      });
      const bare = await startVm(bench.dir, 'bare', [DISK], unwind);
      const peer = peerOf('vm', { socket: bare.socket });
      return [
        ...programs,
        against('node -e 0', emptyNode),
        beside('the bare job', async () => {
          await recordChanges(bare);
          await changing(bare);
          const ms = await bareJobs(bare, bench.dir, 'inc');
          await forgetChanges(bare);
          return ms;
        }),
        ...(await peerIncrement(peer, bench.dir, () => changing(bare))),
      ];
    },
  };
}
